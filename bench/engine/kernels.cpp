// A first convolution that pools and activates, pooling with activation by itself, and the most that a core
// could do.
//
// A convolution of one or three channels does few operations for each number that it writes; written to
// memory, read for pooling and read again for the activation, its output costs more than computing it.
// Here the four products of a 2x2 window stay in registers and one number leaves. `winner` remembers
// for the backward pass which of the four it was.
//
// Layouts: images [B, C, H, W], weights [O, C, K, K]; outputs and their gradients [B, h, w, O], channels
// last. Inside, a line of an image holds the channels of a pixel side by side: the line of K pixels that a
// row of the kernel sees is one vector, or a few.

#include "kernels_vectors.h"

namespace {

// P windows side by side, Q vectors of outputs.
template <class T, int bytes, int K, int C, int P, int Q, bool coded>
INLINE void windows(const Shape &s, const T *corner, const T *weights, const T *bias, T slope, T *out,
                    uint8_t *winner) {
    using V = typename Vectors<T, bytes>::number;
    constexpr int lanes = Vectors<T, bytes>::lanes;
    V sums[P * Q * 4] = {}; // by window and vector the four places
    for (int channel = 0; channel < C; channel++, corner += s.height * s.width)
        for (int i = 0; i < K; i++) {
            const T *above = corner + i * s.width, *below = above + s.width;
            UNROLL for (int j = 0; j < K; j++, weights += Q * lanes)
                UNROLL for (int n = 0; n < P * 4; n++) {
                    const T pixel = (n & 2 ? below : above)[j + n / 4 * 2 + n % 2];
                    UNROLL for (int q = 0; q < Q; q++)
                        sums[(n / 4 * Q + q) * 4 + n % 4] += pixel * load<bytes>(weights + q * lanes);
                }
        }
    finish<T, bytes, P, Q, coded>(sums, s.outputs, bias, slope, out, winner);
}

// act(max over 2x2 of (images * weight) + bias), K x K kernels without padding, by Q vectors of outputs.
template <class T, int bytes, int K, int C, int P, int Q, bool coded>
INLINE void forward_by(const Shape s, const T *images, const T *weight, const T *bias, T slope, T *out,
                       uint8_t *winner) {
    constexpr int block = Q * Vectors<T, bytes>::lanes;
    const long rows = (s.height - K + 1) / 2, columns = (s.width - K + 1) / 2;
    constexpr long taps = C * K * K;
    Aligned<T> packed(s.outputs * taps);
    for (long o = 0; o < s.outputs; o++)
        for (long t = 0; t < taps; t++)
            packed.begin[(o / block * taps + t) * block + o % block] = weight[o * taps + t];
    for (long b = 0; b < s.batch; b++)
        for (long o = 0; o < s.outputs; o += block)
            for (long r = 0; r < rows; r++) {
                const T *line = images + b * C * s.height * s.width + 2 * r * s.width;
                const T *w = packed.begin + o * taps, *start = bias ? bias + o : nullptr;
                const long at = (b * rows + r) * columns * s.outputs + o;
                const auto call = [&](auto several, long c) __attribute__((always_inline)) {
                    windows<T, bytes, K, C, several.count, Q, coded>(
                        s, line + 2 * c, w, start, slope, out + at + c * s.outputs,
                        winner + at + c * s.outputs);
                };
                long c = 0;
                for (; c + P <= columns; c += P)
                    call(Constant<P>{}, c);
                if constexpr (P > 1)
                    for (; c < columns; c++)
                        call(Constant<1>{}, c);
            }
}

template <class T, int bytes, int registers, int K, int C, bool coded>
INLINE void forward(const Shape s, const T *images, const T *weight, const T *bias, T slope, T *out,
                    uint8_t *winner) {
    constexpr int P = registers < 32 ? 1 : 3;
    constexpr int pair = 2 * Vectors<T, bytes>::lanes;
    if (16 % pair == 0 || s.outputs % pair == 0)
        forward_by<T, bytes, K, C, P, 2, coded>(s, images, weight, bias, slope, out, winner);
    else if constexpr (16 % pair != 0)
        forward_by<T, bytes, K, C, P, 1, coded>(s, images, weight, bias, slope, out, winner);
}

// Lines of an image with the channels of a pixel side by side, and room after each, so that a vector may be
// read from its last pixels. `pixels` see one row of a kernel.
template <class T, int bytes, int C, int pixels> struct Lines {
    // No wider than one row needs.
    static constexpr int width = bytes > 32 && pixels * C * sizeof(T) <= 32 ? 32 : bytes;
    static constexpr int lanes = width / sizeof(T);
    static constexpr int parts = (pixels * C + lanes - 1) / lanes, row = parts * lanes;
    long height, across, wide;
    Aligned<T> numbers;
    explicit Lines(const Shape &s)
        : height(s.height), across(s.width), wide(s.width * C + row), numbers((s.height + 1) * wide) {}
    long corner(long window, long columns) const {
        return window / columns * 2 * wide + window % columns * 2 * C;
    }
    INLINE void read(const T *image) {
        for (int channel = 0; channel < C; channel++)
            for (long y = 0; y < height; y++)
                for (long x = 0; x < across; x++)
                    numbers.begin[y * wide + x * C + channel] = image[(channel * height + y) * across + x];
    }
    INLINE void write(T *image) const {
        for (int channel = 0; channel < C; channel++)
            for (long y = 0; y < height; y++)
                for (long x = 0; x < across; x++)
                    image[(channel * height + y) * across + x] = numbers.begin[y * wide + x * C + channel];
    }
};

// How many sums of `lines` vectors, of which none waits for another, the registers hold.
constexpr int independent(int lines, int registers) { return 2 * lines <= registers - 4 ? 2 : 1; }

// Gradients of the weight [O, C, K, K] and the bias [O]. One place of each window has a gradient; its
// K lines of pixels, times that, are added to the K lines of the weight.
template <class T, int bytes, int registers, int K, int C>
INLINE void backward_weight(const Shape s, const T *images, T slope, const uint8_t *winner, const T *upstream,
                            T *of_weight, T *of_bias) {
    using L = Lines<T, bytes, C, K>;
    using V = typename Vectors<T, L::width>::number;
    constexpr int lines = K * L::parts, sets = independent(lines, registers);
    const long columns = (s.width - K + 1) / 2, count = (s.height - K + 1) / 2 * columns;
    L image(s);
    const Codes<T> codes(slope, C, image.wide);
    Lists<T> lists(s.outputs, count);
    Aligned<T> sums(s.outputs * K * L::row);
    if (of_bias)
        std::memset(of_bias, 0, s.outputs * sizeof(T));
    for (long b = 0; b < s.batch; b++) {
        image.read(images + b * C * s.height * s.width);
        const long at = b * count * s.outputs;
        lists.fill(upstream + at, winner + at, s.outputs, count, codes, of_bias,
                   [&](long e) { return image.corner(e, columns); });
        for (long o = 0; o < s.outputs; o++) {
            const T *gradients = &lists.gradients[o * lists.apart];
            const auto *places = &lists.places[o * lists.apart];
            V sum[sets][lines] = {};
            const auto add = [&](V *to, long e) __attribute__((always_inline)) {
                const T g = gradients[e];
                const T *p = image.numbers.begin + places[e];
                UNROLL for (int y = 0; y < K; y++, p = computed(p + image.wide))
                    UNROLL for (int part = 0; part < L::parts; part++)
                        to[y * L::parts + part] += g * load<L::width>(p + part * L::lanes);
            };
            long e = 0;
            for (; e + sets <= count; e += sets)
                UNROLL for (int set = 0; set < sets; set++) add(sum[set], e + set);
            if (sets > 1 && e < count)
                add(sum[0], e);
            T *to = sums.begin + o * K * L::row;
            UNROLL for (int l = 0; l < lines; l++, to += L::lanes)
                store(to, load<L::width>(to) + (sets > 1 ? sum[0][l] + sum[sets - 1][l] : sum[0][l]));
        }
    }
    for (long o = 0; o < s.outputs; o++)
        for (int t = 0; t < C * K * K; t++)
            of_weight[o * C * K * K + t] =
                sums.begin[(o * K + t / K % K) * L::row + t % K * C + t / (K * K)];
}

// Gradient of the images. One place of each window and output has a gradient; times the weights, it is
// added to the K + 1 lines of pixels that the window sees.
template <class T, int bytes, int registers, int K, int C>
INLINE void backward_images(const Shape s, const T *weight, T slope, const uint8_t *winner, const T *upstream,
                            T *of_images) {
    using L = Lines<T, bytes, C, K + 1>;
    using V = typename Vectors<T, L::width>::number;
    constexpr int lines = (K + 1) * L::parts, sets = independent(lines, registers);
    // By output, for either column of a window, the weights moved there between two rows of zeros: a window
    // reads them from the first or from the second row.
    constexpr long moved = (K + 2) * L::row;
    const long columns = (s.width - K + 1) / 2, count = (s.height - K + 1) / 2 * columns;
    L whole(s);
    const Codes<T> codes(slope, moved, -L::row);
    Aligned<T> packed(s.outputs * 2 * moved);
    for (long o = 0; o < s.outputs; o++)
        for (int right = 0; right < 2; right++)
            for (int t = 0; t < C * K * K; t++)
                packed.begin[(o * 2 + right) * moved + (1 + t / K % K) * L::row + (t % K + right) * C +
                             t / (K * K)] = weight[o * C * K * K + t];
    for (long b = 0; b < s.batch; b++) {
        std::memset(whole.numbers.begin, 0, (s.height + 1) * whole.wide * sizeof(T));
        for (long n = 0; n < count; n++) {
            const long at = (b * count + n) * s.outputs;
            V sum[sets][lines] = {};
            const T *w = packed.begin + L::row;
            for (long o = 0; o < s.outputs; o += sets)
                UNROLL for (int set = 0; set < sets; set++, w += 2 * moved) {
                    const uint8_t code = winner[at + o + set];
                    const T g = upstream[at + o + set] * codes.factor[code];
                    const T *p = computed(w + codes.place[code]);
                    UNROLL for (int l = 0; l < lines; l++)
                        sum[set][l] += g * load<L::width>(p + l * L::lanes);
                }
            T *corner = whole.numbers.begin + whole.corner(n, columns);
            UNROLL for (int l = 0; l < lines; l++) {
                T *to = corner + l / L::parts * whole.wide + l % L::parts * L::lanes;
                store(to, load<L::width>(to) + (sets > 1 ? sum[0][l] + sum[sets - 1][l] : sum[0][l]));
            }
        }
        whole.write(of_images + b * C * s.height * s.width);
    }
}

// act(max over 2x2) of y [B, H, W, C]; channels a multiple of a vector. A last odd row or column is left out.
template <class T, int bytes, bool coded>
INLINE void pool(const Shape s, const T *y, T slope, T *out, uint8_t *winner) {
    using V = typename Vectors<T, bytes>::number;
    constexpr int lanes = Vectors<T, bytes>::lanes;
    const long rows = s.height / 2, columns = s.width / 2, line = s.width * s.channels;
    for (long b = 0; b < s.batch; b++)
        for (long r = 0; r < rows; r++)
            for (long c = 0; c < columns; c++) {
                const T *p = y + (b * s.height + 2 * r) * line + 2 * c * s.channels;
                const long at = ((b * rows + r) * columns + c) * s.channels;
                for (long o = 0; o < s.channels; o += lanes) {
                    const V four[4] = {load<bytes>(p + o), load<bytes>(p + s.channels + o),
                                       load<bytes>(p + line + o), load<bytes>(p + line + s.channels + o)};
                    typename Vectors<T, bytes>::mask code;
                    store(out + at + o, settle<T, bytes>(four, V{}, slope, code));
                    if constexpr (coded)
                        store_codes<T, bytes>(winner + at + o, code);
                }
            }
}

template <class T, int bytes>
INLINE void pool_backward(const Shape s, T slope, const uint8_t *winner, const T *upstream, T *of_y) {
    using V = typename Vectors<T, bytes>::number;
    using integer = typename Vectors<T, bytes>::integer;
    constexpr int lanes = Vectors<T, bytes>::lanes;
    const long rows = s.height / 2, columns = s.width / 2, line = s.width * s.channels;
    if (s.height % 2 || s.width % 2)
        std::memset(of_y, 0, s.batch * s.height * line * sizeof(T));
    for (long b = 0; b < s.batch; b++)
        for (long r = 0; r < rows; r++)
            for (long c = 0; c < columns; c++) {
                T *p = of_y + (b * s.height + 2 * r) * line + 2 * c * s.channels;
                const long at = ((b * rows + r) * columns + c) * s.channels;
                for (long o = 0; o < s.channels; o += lanes) {
                    const auto code = load_codes<T, bytes>(winner + at + o);
                    V g = load<bytes>(upstream + at + o);
                    g = code > (integer)3 ? g * slope : g;
                    for (int q = 0; q < 4; q++)
                        store(p + q / 2 * line + q % 2 * s.channels + o,
                              (code & (integer)3) == (integer)q ? g : V{});
                }
            }
}

// Multiply-adds of chains of which none waits for another, in registers alone; how many operations that were.
template <int bytes, int registers> INLINE void peak(long rounds, float *sums, double *operations) {
    using V = typename Vectors<float, bytes>::number;
    constexpr int lanes = Vectors<float, bytes>::lanes, chains = registers * 3 / 4;
    V chain[chains], factor = V{} + sums[0], term = V{} + sums[1];
    UNROLL for (int n = 0; n < chains; n++) chain[n] = V{} + (float)n; // equal ones would be computed once
    for (long round = 0; round < rounds; round++)
        UNROLL for (int n = 0; n < chains; n++) chain[n] = chain[n] * factor + term;
    V total = {};
    UNROLL for (int n = 0; n < chains; n++) total += chain[n];
    store(sums, total);
    *operations = 2.0 * rounds * chains * lanes;
}

} // namespace

#define FORWARD(T, K, C)                                                                                     \
    (winner ? forward<T, bytes, registers, K, C, true>(s, images, weight, bias, (T)slope, out, winner)       \
            : forward<T, bytes, registers, K, C, false>(s, images, weight, bias, (T)slope, out, winner))
#define WEIGHT(T, K, C)                                                                                      \
    backward_weight<T, bytes, registers, K, C>(s, images, (T)slope, winner, upstream, of_weight, of_bias)
#define IMAGES(T, K, C)                                                                                      \
    backward_images<T, bytes, registers, K, C>(s, weight, (T)slope, winner, upstream, of_images)
#define BY_KERNEL(CALL, T)                                                                                   \
    (kernel == 5 ? s.channels == 3 ? CALL(T, 5, 3) : CALL(T, 5, 1)                                           \
                 : s.channels == 3 ? CALL(T, 3, 3) : CALL(T, 3, 1))

#define DEFINE(T, suffix)                                                                                    \
    FUNCTION(first_forward_##suffix,                                                                         \
             (Shape s, long kernel, const T *images, const T *weight, const T *bias, double slope, T *out,   \
              uint8_t *winner),                                                                              \
             (s, kernel, images, weight, bias, slope, out, winner), BY_KERNEL(FORWARD, T))                   \
    FUNCTION(first_backward_weight_##suffix,                                                                 \
             (Shape s, long kernel, const T *images, double slope, const uint8_t *winner, const T *upstream, \
              T *of_weight, T *of_bias),                                                                     \
             (s, kernel, images, slope, winner, upstream, of_weight, of_bias), BY_KERNEL(WEIGHT, T))         \
    FUNCTION(first_backward_inputs_##suffix,                                                                 \
             (Shape s, long kernel, const T *weight, double slope, const uint8_t *winner, const T *upstream, \
              T *of_images),                                                                                 \
             (s, kernel, weight, slope, winner, upstream, of_images), BY_KERNEL(IMAGES, T))                  \
    FUNCTION(pool_forward_##suffix, (Shape s, const T *y, double slope, T *out, uint8_t *winner),            \
             (s, y, slope, out, winner),                                                                     \
             (winner ? pool<T, bytes, true>(s, y, (T)slope, out, winner)                                     \
                     : pool<T, bytes, false>(s, y, (T)slope, out, winner)))                                  \
    FUNCTION(pool_backward_##suffix,                                                                         \
             (Shape s, double slope, const uint8_t *winner, const T *upstream, T *of_y),                     \
             (s, slope, winner, upstream, of_y),                                                             \
             (pool_backward<T, bytes>(s, (T)slope, winner, upstream, of_y)))

DEFINE(float, float32)
DEFINE(double, float64)
FUNCTION(multiply_adds, (long rounds, float *sums, double *operations), (rounds, sums, operations),
         (peak<bytes, registers>(rounds, sums, operations)))

// The highest level that this processor has.
EXPORT long highest_level() {
    ON_X86(if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq")) return 2;
           if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;)
    return 0;
}
