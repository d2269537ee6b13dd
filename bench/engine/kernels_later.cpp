// A convolution of many channels that pools and activates.
//
// Forward, a vector holds outputs; what falls outside the windows is not computed. Backward, one place of
// each 2x2 window has a gradient: a quarter of the multiply-adds of the dense map. Which one it is differs
// from output to output, so that a vector holds input channels.
//
// Layouts: inputs [B, H, W, C], weights [O, K, K, C], outputs and their gradients [B, h, w, O], all channels
// last; C and O multiples of 16. Inside, channels come in blocks of one vector, [C / lanes, H, W, lanes]: a
// pixel's neighbours are then a constant away. Weights and their sums come by block, then by strips of rows
// of the kernel, then by output.

#include "kernels_vectors.h"

namespace {

constexpr int STRIP = 3;           // rows of a kernel whose sums, at most 15, stay in registers together
constexpr int GROUP = 32;          // outputs that one word tells apart
constexpr long CACHED = 20 * 1024; // bytes of one block of the images that stay in the first cache

// [places, channels] -> [channels / lanes, places, lanes], blocks `apart` from each other.
template <class T, int bytes>
INLINE void to_blocks(const T *from, long places, long channels, T *to, long apart) {
    constexpr int lanes = Vectors<T, bytes>::lanes;
    for (long n = 0; n < places; n++)
        for (long c = 0; c < channels; c += lanes)
            store(to + c / lanes * apart + n * lanes, load<bytes>(from + n * channels + c));
}
template <class T, int bytes>
INLINE void from_blocks(const T *from, long apart, long places, long channels, T *to) {
    constexpr int lanes = Vectors<T, bytes>::lanes;
    for (long n = 0; n < places; n++)
        for (long c = 0; c < channels; c += lanes)
            store(to + n * channels + c, load<bytes>(from + c / lanes * apart + n * lanes));
}

// A layer's sizes: K x K kernels without padding and 2x2 windows.
template <class T, int bytes, int K> struct Sizes {
    static constexpr int lanes = Vectors<T, bytes>::lanes;
    long columns, windows, line, plane, blocks, kernels;
    explicit Sizes(const Shape &s)
        : columns((s.width - K + 1) / 2), windows((s.height - K + 1) / 2 * columns), line(s.width * lanes),
          plane(s.height * line), blocks(s.channels / lanes), kernels(s.outputs * K * K * lanes) {}
    long corner(long window) const { return window / columns * 2 * line + window % columns * 2 * lanes; }
};

// Calls call(R, y) for every strip of R rows of the kernel, from y on.
template <int K, class F> INLINE void each_strip(F call) {
    constexpr int left = K % STRIP;
    for (int y = 0; y + STRIP <= K; y += STRIP)
        call(Constant<STRIP>{}, y);
    if constexpr (left != 0)
        call(Constant<left>{}, K - left);
}

// P windows side by side, Q vectors of outputs.
template <class T, int bytes, int K, int P, int Q, bool coded>
INLINE void windows(const Sizes<T, bytes, K> &size, const T *corner, const T *weights, const T *bias, T slope,
                    long outputs, T *out, uint8_t *winner) {
    constexpr int lanes = size.lanes;
    typename Vectors<T, bytes>::number sums[P * Q * 4] = {}; // by window and vector the four places
    for (long block = 0; block < size.blocks; block++, corner += size.plane)
        for (int y = 0; y < K; y++) {
            const T *above = corner + y * size.line, *below = computed(above + size.line);
            for (int t = 0; t < K * lanes; t++, weights += Q * lanes)
                UNROLL for (int n = 0; n < P * 4; n++) {
                    const T number = (n & 2 ? below : above)[t + (n / 4 * 2 + n % 2) * lanes];
                    UNROLL for (int q = 0; q < Q; q++)
                        sums[(n / 4 * Q + q) * 4 + n % 4] += number * load<bytes>(weights + q * lanes);
                }
        }
    finish<T, bytes, P, Q, coded>(sums, outputs, bias, slope, out, winner);
}

// act(max over 2x2 of (inputs * weight) + bias), by Q vectors of outputs.
template <class T, int bytes, int registers, int K, int Q, bool coded>
INLINE void forward_by(const Shape s, const T *inputs, const T *weight, const T *bias, T slope, T *out,
                       uint8_t *winner) {
    const Sizes<T, bytes, K> size(s);
    constexpr int lanes = size.lanes, group = Q * lanes, P = registers < 32 ? 1 : 2;
    const long taps = K * K * s.channels, pixels = s.height * s.width;
    Aligned<T> image(size.blocks * size.plane), packed(s.outputs * taps);
    for (long o = 0; o < s.outputs; o++) // by group, block of inputs, row and column of the kernel, input
        for (long block = 0; block < size.blocks; block++)
            for (int t = 0; t < K * K; t++) {
                const T *from = weight + o * taps + t * s.channels + block * lanes;
                T *to = &packed.begin[(o / group * taps + (block * K * K + t) * lanes) * group + o % group];
                for (int c = 0; c < lanes; c++)
                    to[c * group] = from[c];
            }
    for (long b = 0; b < s.batch; b++) {
        to_blocks<T, bytes>(inputs + b * pixels * s.channels, pixels, s.channels, image.begin, size.plane);
        for (long o = 0; o < s.outputs; o += group) {
            const auto call = [&](auto several, long n) __attribute__((always_inline)) {
                const long at = (b * size.windows + n) * s.outputs + o;
                windows<T, bytes, K, several.count, Q, coded>(size, image.begin + size.corner(n),
                                                              packed.begin + o * taps, bias ? bias + o : bias,
                                                              slope, s.outputs, out + at, winner + at);
            };
            for (long n = 0; n < size.windows;) {
                if (n % size.columns + P <= size.columns) {
                    call(Constant<P>{}, n);
                    n += P;
                } else {
                    call(Constant<1>{}, n++);
                }
            }
        }
    }
}

template <class T, int bytes, int registers, int K, bool coded>
INLINE void forward(const Shape s, const T *inputs, const T *weight, const T *bias, T slope, T *out,
                    uint8_t *winner) {
    constexpr int pair = 2 * Vectors<T, bytes>::lanes;
    if (16 % pair == 0 || s.outputs % pair == 0)
        forward_by<T, bytes, registers, K, 2, coded>(s, inputs, weight, bias, slope, out, winner);
    else if constexpr (16 % pair != 0)
        forward_by<T, bytes, registers, K, 1, coded>(s, inputs, weight, bias, slope, out, winner);
}

// Sums of R rows of the kernel for one output and block: every gradient of its list times the pixels that
// its place sees.
template <class T, int bytes, int K, int R>
INLINE void add_list(const T *gradients, const int32_t *places, long count, const T *pixels, long line,
                     T *sums) {
    using V = typename Vectors<T, bytes>::number;
    constexpr int lanes = Vectors<T, bytes>::lanes;
    V sum[R * K];
    UNROLL for (int l = 0; l < R * K; l++) sum[l] = load<bytes>(sums + l * lanes);
    for (long e = 0; e < count; e++) {
        const T g = gradients[e];
        const T *p = pixels + places[e];
        UNROLL for (int y = 0; y < R; y++, p = computed(p + line))
            UNROLL for (int x = 0; x < K; x++) sum[y * K + x] += g * load<bytes>(p + x * lanes);
    }
    UNROLL for (int l = 0; l < R * K; l++) store(sums + l * lanes, sum[l]);
}

// Gradients of the weight and the bias [O].
template <class T, int bytes, int K>
INLINE void backward_weight(const Shape s, const T *inputs, T slope, const uint8_t *winner, const T *upstream,
                            T *of_weight, T *of_bias) {
    const Sizes<T, bytes, K> size(s);
    constexpr int lanes = size.lanes;
    const long pixels = s.height * s.width, fit = CACHED / (size.plane * (long)sizeof(T));
    const long together = fit < 1 ? 1 : fit < s.batch ? fit : s.batch;
    Aligned<T> sums(size.blocks * size.kernels), images(size.blocks * together * size.plane);
    const Codes<T> codes(slope, lanes, size.line);
    Lists<T> lists(s.outputs, together * size.windows);
    if (of_bias)
        std::memset(of_bias, 0, s.outputs * sizeof(T));
    for (long b = 0; b < s.batch; b += together) {
        const long several = s.batch - b < together ? s.batch - b : together, count = several * size.windows;
        for (long i = 0; i < several; i++)
            to_blocks<T, bytes>(inputs + (b + i) * pixels * s.channels, pixels, s.channels,
                                images.begin + i * size.plane, together * size.plane);
        const long at = b * size.windows * s.outputs;
        lists.fill(
            upstream + at, winner + at, s.outputs, count, codes, of_bias,
            [&](long e) { return e / size.windows * size.plane + size.corner(e % size.windows); });
        for (long block = 0; block < size.blocks; block++)
            each_strip<K>([&](auto rows, int y) __attribute__((always_inline)) {
                constexpr int R = rows.count;
                const T *from = images.begin + block * together * size.plane + y * size.line;
                T *to = sums.begin + block * size.kernels + s.outputs * y * K * lanes;
                for (long o = 0; o < s.outputs; o++)
                    add_list<T, bytes, K, R>(&lists.gradients[o * lists.apart],
                                             &lists.places[o * lists.apart], count, from, size.line,
                                             to + o * R * K * lanes);
            });
    }
    for (long o = 0; o < s.outputs; o++)
        each_strip<K>([&](auto rows, int y) __attribute__((always_inline)) {
            from_blocks<T, bytes>(sums.begin + (s.outputs * y + o * rows.count) * K * lanes, size.kernels,
                                  rows.count * K, s.channels, of_weight + (o * K + y) * K * s.channels);
        });
}

// Adds to the pixels that a window sees through R rows of the kernel, for one block. The sums of R x K
// pixels stay in registers while the winning place goes around the window; each step exchanges a row or a
// column of them.
template <class T, int bytes, int K, int R>
INLINE void add_window(const uint32_t *winners, const T *gradients, const T *weights, T *pixels, long line) {
    using V = typename Vectors<T, bytes>::number;
    constexpr int lanes = Vectors<T, bytes>::lanes;
    V sums[R * K];
#define SUM(y, x) sums[(y) % R * K + (x) % K]
#define PIXEL(y, x) (pixels + (y) * line + (x) * lanes)
#define ADD(down, right)                                                                                     \
    for (uint32_t left = winners[2 * down + right]; left; left &= left - 1) {                                \
        const int o = __builtin_ctz(left);                                                                   \
        const T g = gradients[o];                                                                            \
        const T *w = computed(weights + o * (R * K * lanes));                                                \
        UNROLL for (int l = 0; l < R * K; l++)                                                               \
            SUM(l / K + down, l % K + right) += g * load<bytes>(w + l * lanes);                              \
    }
    UNROLL for (int l = 0; l < R * K; l++) SUM(l / K, l % K) = load<bytes>(PIXEL(l / K, l % K));
    ADD(0, 0)
    UNROLL for (int y = 0; y < R; y++) {
        store(PIXEL(y, 0), SUM(y, 0));
        SUM(y, K) = load<bytes>(PIXEL(y, K));
    }
    ADD(0, 1)
    UNROLL for (int x = 1; x <= K; x++) {
        store(PIXEL(0, x), SUM(0, x));
        SUM(R, x) = load<bytes>(PIXEL(R, x));
    }
    ADD(1, 1)
    UNROLL for (int y = 1; y <= R; y++) {
        store(PIXEL(y, K), SUM(y, K));
        SUM(y, 0) = load<bytes>(PIXEL(y, 0));
    }
    ADD(1, 0)
    UNROLL for (int l = 0; l < R * K; l++) store(PIXEL(l / K + 1, l % K), SUM(l / K + 1, l % K));
#undef ADD
#undef PIXEL
#undef SUM
}

// By place of the window: which of up to `GROUP` outputs it won, as bits.
INLINE void winners_of(const uint8_t *winner, long outputs, uint32_t *winners) {
    uint32_t right = 0, down = 0;
    for (long o = 0; o < outputs; o++) {
        right |= (uint32_t)(winner[o] & 1) << o;
        down |= (uint32_t)(winner[o] >> 1 & 1) << o;
    }
    const uint32_t all = (uint32_t)((uint64_t{1} << outputs) - 1);
    winners[0] = all & ~right & ~down;
    winners[1] = right & ~down;
    winners[2] = down & ~right;
    winners[3] = right & down;
}

// Gradient of the inputs.
template <class T, int bytes, int K>
INLINE void backward_inputs(const Shape s, const T *weight, T slope, const uint8_t *winner, const T *upstream,
                            T *of_inputs) {
    const Sizes<T, bytes, K> size(s);
    constexpr int lanes = size.lanes;
    const long pixels = s.height * s.width, groups = (s.outputs + GROUP - 1) / GROUP;
    Aligned<T> weights(size.blocks * size.kernels), sums(size.blocks * size.plane);
    std::vector<T> gradients(size.windows * s.outputs);
    const Codes<T> codes(slope, 0, 0);
    std::vector<uint32_t> winners(size.windows * groups * 4);
    for (long o = 0; o < s.outputs; o++)
        each_strip<K>([&](auto rows, int y) __attribute__((always_inline)) {
            to_blocks<T, bytes>(weight + (o * K + y) * K * s.channels, rows.count * K, s.channels,
                                weights.begin + (s.outputs * y + o * rows.count) * K * lanes, size.kernels);
        });
    for (long b = 0; b < s.batch; b++) {
        std::memset(sums.begin, 0, size.blocks * size.plane * sizeof(T));
        for (long n = 0; n < size.windows; n++) {
            const long at = (b * size.windows + n) * s.outputs;
            for (long o = 0; o < s.outputs; o++)
                gradients[n * s.outputs + o] = upstream[at + o] * codes.factor[winner[at + o]];
            for (long o = 0; o < s.outputs; o += GROUP)
                winners_of(winner + at + o, s.outputs - o < GROUP ? s.outputs - o : GROUP,
                           &winners[(n * groups + o / GROUP) * 4]);
        }
        for (long block = 0; block < size.blocks; block++)
            for (long group = 0; group < groups; group++)
                each_strip<K>([&](auto rows, int y) __attribute__((always_inline)) {
                    constexpr int R = rows.count;
                    const T *from = weights.begin + block * size.kernels +
                                    (s.outputs * y + group * GROUP * R) * K * lanes;
                    T *to = sums.begin + block * size.plane + y * size.line;
                    for (long n = 0; n < size.windows; n++)
                        add_window<T, bytes, K, R>(&winners[(n * groups + group) * 4],
                                                   &gradients[n * s.outputs + group * GROUP], from,
                                                   to + size.corner(n), size.line);
                });
        from_blocks<T, bytes>(sums.begin, size.plane, pixels, s.channels,
                              of_inputs + b * pixels * s.channels);
    }
}

} // namespace

#define BY_KERNEL(CALL, T) kernel == 5 ? CALL(T, 5) : CALL(T, 3)
#define WEIGHT(T, K) backward_weight<T, bytes, K>(s, inputs, (T)slope, winner, upstream, of_weight, of_bias)
#define INPUTS(T, K) backward_inputs<T, bytes, K>(s, weight, (T)slope, winner, upstream, of_inputs)

#define FORWARD(T, K)                                                                                        \
    (winner ? forward<T, bytes, registers, K, true>(s, inputs, weight, bias, (T)slope, out, winner)          \
            : forward<T, bytes, registers, K, false>(s, inputs, weight, bias, (T)slope, out, winner))

#define DEFINE(T, suffix)                                                                                    \
    FUNCTION(later_forward_##suffix,                                                                         \
             (Shape s, long kernel, const T *inputs, const T *weight, const T *bias, double slope, T *out,   \
              uint8_t *winner),                                                                              \
             (s, kernel, inputs, weight, bias, slope, out, winner), BY_KERNEL(FORWARD, T))                   \
    FUNCTION(later_backward_weight_##suffix,                                                                 \
             (Shape s, long kernel, const T *inputs, double slope, const uint8_t *winner, const T *upstream, \
              T *of_weight, T *of_bias),                                                                     \
             (s, kernel, inputs, slope, winner, upstream, of_weight, of_bias), BY_KERNEL(WEIGHT, T))         \
    FUNCTION(later_backward_inputs_##suffix,                                                                 \
             (Shape s, long kernel, const T *weight, double slope, const uint8_t *winner, const T *upstream, \
              T *of_inputs),                                                                                 \
             (s, kernel, weight, slope, winner, upstream, of_inputs), BY_KERNEL(INPUTS, T))

DEFINE(float, float32)
DEFINE(double, float64)
