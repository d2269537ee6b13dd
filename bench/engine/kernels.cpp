// What a CPU spends its time on beside matrix products: a first convolution that pools and activates
// in registers, and pooling with activation by itself.
//
// A convolution of one or three channels does few operations for each number that it writes; written to
// memory, read for pooling and read again for the activation, its output costs more than computing it.
// Here the four products of a 2x2 window stay in registers and one number leaves. `winner` remembers
// for the backward pass which of the four it was (bits 0 and 1, the first of equal ones) and whether
// the activation saw a negative number (bit 2).
//
// Layouts: images [B, C, H, W]; outputs and their gradients [B, h, w, O], channels last. Vectors are
// GCC's, lowered to what the target has; on x86 each function exists twice, for AVX2 with FMA and for
// any machine. Functions run on the caller's thread and allocate only their scratch space.

#include <cstdint>
#include <cstring>
#include <vector>

namespace {

#define INLINE inline __attribute__((always_inline))

template <class T> struct Kind;
template <> struct Kind<float> {
    using integer = int32_t;
    static constexpr int lanes = 8;
};
template <> struct Kind<double> {
    using integer = int64_t;
    static constexpr int lanes = 4;
};

// 32-byte vectors of numbers, masks and codes; `loose` ones may lie at any address.
template <class T> struct Vectors {
    static constexpr int lanes = Kind<T>::lanes;
    using integer = typename Kind<T>::integer;
    typedef T number __attribute__((vector_size(32)));
    typedef integer mask __attribute__((vector_size(32)));
    typedef T loose __attribute__((vector_size(32), aligned(sizeof(T)), may_alias));
    typedef uint8_t codes __attribute__((vector_size(lanes), aligned(1), may_alias));
};

template <class T> INLINE typename Vectors<T>::number load(const T *p) {
    return *(const typename Vectors<T>::loose *)p;
}
template <class T> INLINE void store(T *p, typename Vectors<T>::number v) {
    *(typename Vectors<T>::loose *)p = v;
}
template <class T>
INLINE typename Vectors<T>::number choose(typename Vectors<T>::mask m, typename Vectors<T>::number a,
                                          typename Vectors<T>::number b) {
    return m ? a : b;
}

// Of four numbers a lane the largest, plus a bias, activated; the code of what happened.
template <class T>
INLINE typename Vectors<T>::number settle(const typename Vectors<T>::number *four,
                                          typename Vectors<T>::number bias, T slope,
                                          typename Vectors<T>::mask &code) {
    using mask = typename Vectors<T>::mask;
    auto best = four[0];
    code = mask{};
    for (int q = 1; q < 4; q++) {
        const mask larger = four[q] > best;
        best = choose<T>(larger, four[q], best);
        code = larger ? mask{} + (typename Vectors<T>::integer)q : code;
    }
    best += bias;
    const mask positive = best > (T)0;
    code |= ~positive & (typename Vectors<T>::integer)4;
    return choose<T>(positive, best, best * slope);
}

template <class T> INLINE void store_codes(uint8_t *p, typename Vectors<T>::mask code) {
    *(typename Vectors<T>::codes *)p = __builtin_convertvector(code, typename Vectors<T>::codes);
}
template <class T> INLINE typename Vectors<T>::mask load_codes(const uint8_t *p) {
    return __builtin_convertvector(*(const typename Vectors<T>::codes *)p, typename Vectors<T>::mask);
}

struct Shape {
    long batch, channels, height, width, outputs;
};

// act(max over 2x2 of (images * weight) + bias), K x K kernels without padding, outputs a multiple of
// two vectors.
template <class T, int K, int C>
INLINE void forward(const Shape s, const T *images, const T *weight, const T *bias, T slope, T *out,
                    uint8_t *winner) {
    using V = typename Vectors<T>::number;
    constexpr int lanes = Vectors<T>::lanes, block = 2 * lanes;
    const long rows = (s.height - K + 1) / 2, columns = (s.width - K + 1) / 2;
    const long plane = s.height * s.width;
    constexpr long taps = C * K * K;
    std::vector<T> packed(s.outputs * taps);
    for (long o = 0; o < s.outputs; o++)
        for (long t = 0; t < taps; t++)
            packed[(o / block * taps + t) * block + o % block] = weight[o * taps + t];
    for (long b = 0; b < s.batch; b++) {
        for (long o = 0; o < s.outputs; o += block) {
            const V bias0 = bias ? load(bias + o) : V{}, bias1 = bias ? load(bias + o + lanes) : V{};
            for (long r = 0; r < rows; r++) {
                for (long c = 0; c < columns; c++) {
                    V low[4] = {}, high[4] = {};
                    const T *w = packed.data() + o * taps;
                    const T *p = images + b * C * plane + 2 * r * s.width + 2 * c;
                    for (int channel = 0; channel < C; channel++, p += plane) {
                        for (int i = 0; i < K; i++) {
                            const T *above = p + i * s.width, *below = above + s.width;
#pragma GCC unroll 5
                            for (int j = 0; j < K; j++, w += block) {
                                const V w0 = load(w), w1 = load(w + lanes);
                                low[0] += above[j] * w0;
                                high[0] += above[j] * w1;
                                low[1] += above[j + 1] * w0;
                                high[1] += above[j + 1] * w1;
                                low[2] += below[j] * w0;
                                high[2] += below[j] * w1;
                                low[3] += below[j + 1] * w0;
                                high[3] += below[j + 1] * w1;
                            }
                        }
                    }
                    const long at = ((b * rows + r) * columns + c) * s.outputs + o;
                    typename Vectors<T>::mask code0, code1;
                    store(out + at, settle<T>(low, bias0, slope, code0));
                    store(out + at + lanes, settle<T>(high, bias1, slope, code1));
                    if (winner) {
                        store_codes<T>(winner + at, code0);
                        store_codes<T>(winner + at + lanes, code1);
                    }
                }
            }
        }
    }
}

// An image batch's planes with room after each line, so that a vector may be read from its last pixels.
template <class T> struct Padded {
    long wide;
    std::vector<T> numbers;
    Padded(const Shape &s, int room)
        : wide(s.width + room), numbers((s.channels * s.height + 1) * wide) {}
};

// What the code of a place says: the factor of its gradient, and where in its window it lies.
template <class T> struct Codes {
    T factor[8];
    long place[8];
    Codes(T slope, long wide) {
        for (int code = 0; code < 8; code++) {
            factor[code] = code & 4 ? slope : (T)1;
            place[code] = (code & 2 ? wide : 0) + (code & 1);
        }
    }
};

// Gradients of the weight [O, C, K, K] and the bias [O]. One place of each window has a gradient; its
// K lines of pixels, times that, are added to the K lines of the weight.
template <class T, int K, int C>
INLINE void backward_weight(const Shape s, const T *images, T slope, const uint8_t *winner, const T *upstream,
                            T *of_weight, T *of_bias) {
    using V = typename Vectors<T>::number;
    constexpr int lanes = Vectors<T>::lanes, parts = (K + lanes - 1) / lanes, lines = C * K * parts;
    // Two sums, of which neither waits for the other, where the processor has registers for both.
    constexpr int sets = lines <= 6 ? 2 : 1;
    const long rows = (s.height - K + 1) / 2, columns = (s.width - K + 1) / 2;
    Padded<T> image(s, parts * lanes);
    const long wide = image.wide, plane = s.height * wide;
    const Codes<T> codes(slope, wide);
    std::vector<T> sums(s.outputs * lines * lanes);
    if (of_bias)
        std::memset(of_bias, 0, s.outputs * sizeof(T));
    for (long b = 0; b < s.batch; b++) {
        const T *up = upstream + b * rows * columns * s.outputs;
        const uint8_t *codes_of = winner + b * rows * columns * s.outputs;
        for (long y = 0; y < C * s.height; y++)
            std::memcpy(&image.numbers[y * wide], images + (b * C * s.height + y) * s.width,
                        s.width * sizeof(T));
        if (of_bias)
            for (long n = 0; n < rows * columns; n++)
                for (long o = 0; o < s.outputs; o++)
                    of_bias[o] += up[n * s.outputs + o] * codes.factor[codes_of[n * s.outputs + o]];
        for (long o = 0; o < s.outputs; o++) {
            V sum[sets][lines] = {};
            const auto add = [&](V *to, const T *corner, long at) __attribute__((always_inline)) {
                const T g = up[at] * codes.factor[codes_of[at]];
                const T *p = corner + codes.place[codes_of[at]];
#pragma GCC unroll 32
                for (int l = 0; l < lines; l++)
                    to[l] += g * load(p + l / (K * parts) * plane + l / parts % K * wide + l % parts * lanes);
            };
            for (long r = 0; r < rows; r++) {
                const T *line = &image.numbers[2 * r * wide];
                const long at = r * columns * s.outputs + o;
                long c = 0;
                for (; c + sets <= columns; c += sets)
                    for (int set = 0; set < sets; set++)
                        add(sum[set], line + 2 * (c + set), at + (c + set) * s.outputs);
                for (; c < columns; c++)
                    add(sum[0], line + 2 * c, at + c * s.outputs);
            }
#pragma GCC unroll 32
            for (int l = 0; l < lines; l++) {
                T *to = &sums[(o * lines + l) * lanes];
                store(to, load(to) + (sets > 1 ? sum[0][l] + sum[sets - 1][l] : sum[0][l]));
            }
        }
    }
    for (long l = 0; l < s.outputs * C * K; l++)
        std::memcpy(of_weight + l * K, &sums[l * parts * lanes], K * sizeof(T));
}

// Gradient of the images. One place of each window and output has a gradient; times the weights, it is
// added to the K + 1 lines of pixels that the window sees.
template <class T, int K, int C>
INLINE void backward_images(const Shape s, const T *weight, T slope, const uint8_t *winner, const T *upstream,
                            T *of_images) {
    using V = typename Vectors<T>::number;
    constexpr int lanes = Vectors<T>::lanes, parts = (K + lanes) / lanes, lines = C * (K + 1) * parts;
    constexpr int sets = lines <= 6 ? 2 : 1; // as above
    constexpr long size = lines * lanes;     // of one output's weights as a window sees them
    const long rows = (s.height - K + 1) / 2, columns = (s.width - K + 1) / 2;
    Padded<T> whole(s, parts * lanes);
    const long wide = whole.wide, plane = s.height * wide;
    const Codes<T> codes(slope, wide);
    // By output and place: the weights, moved to that place.
    std::vector<T> packed(s.outputs * 4 * size);
    for (long l = 0; l < s.outputs * C * K; l++)
        for (int q = 0; q < 4; q++)
            std::memcpy(&packed[(l / (C * K) * 4 + q) * size + l / K % C * (K + 1) * parts * lanes +
                                (l % K + q / 2) * parts * lanes + q % 2],
                        weight + l * K, K * sizeof(T));
    for (long b = 0; b < s.batch; b++) {
        std::memset(whole.numbers.data(), 0, whole.numbers.size() * sizeof(T));
        for (long n = 0; n < rows * columns; n++) {
            const long at = (b * rows * columns + n) * s.outputs;
            V sum[sets][lines] = {};
            for (long o = 0; o < s.outputs; o += sets) {
                for (int set = 0; set < sets; set++) {
                    const uint8_t code = winner[at + o + set];
                    const T g = upstream[at + o + set] * codes.factor[code];
                    const T *p = packed.data() + ((o + set) * 4 + (code & 3)) * size;
#pragma GCC unroll 32
                    for (int l = 0; l < lines; l++)
                        sum[set][l] += g * load(p + l * lanes);
                }
            }
            T *corner = &whole.numbers[n / columns * 2 * wide + n % columns * 2];
#pragma GCC unroll 32
            for (int l = 0; l < lines; l++) {
                T *to = corner + l / ((K + 1) * parts) * plane + l / parts % (K + 1) * wide + l % parts * lanes;
                store(to, load(to) + (sets > 1 ? sum[0][l] + sum[sets - 1][l] : sum[0][l]));
            }
        }
        for (long y = 0; y < C * s.height; y++)
            std::memcpy(of_images + (b * C * s.height + y) * s.width, &whole.numbers[y * wide],
                        s.width * sizeof(T));
    }
}

// act(max over 2x2) of y [B, H, W, C]; channels a multiple of a vector. A last odd row or column is left out.
template <class T>
INLINE void pool(const Shape s, const T *y, T slope, T *out, uint8_t *winner) {
    using V = typename Vectors<T>::number;
    constexpr int lanes = Vectors<T>::lanes;
    const long rows = s.height / 2, columns = s.width / 2, line = s.width * s.channels;
    for (long b = 0; b < s.batch; b++)
        for (long r = 0; r < rows; r++)
            for (long c = 0; c < columns; c++) {
                const T *p = y + (b * s.height + 2 * r) * line + 2 * c * s.channels;
                const long at = ((b * rows + r) * columns + c) * s.channels;
                for (long o = 0; o < s.channels; o += lanes) {
                    const V four[4] = {load(p + o), load(p + s.channels + o), load(p + line + o),
                                       load(p + line + s.channels + o)};
                    typename Vectors<T>::mask code;
                    store(out + at + o, settle<T>(four, V{}, slope, code));
                    if (winner)
                        store_codes<T>(winner + at + o, code);
                }
            }
}

template <class T>
INLINE void pool_backward(const Shape s, T slope, const uint8_t *winner, const T *upstream, T *of_y) {
    using V = typename Vectors<T>::number;
    using integer = typename Vectors<T>::integer;
    constexpr int lanes = Vectors<T>::lanes;
    const long rows = s.height / 2, columns = s.width / 2, line = s.width * s.channels;
    if (s.height % 2 || s.width % 2)
        std::memset(of_y, 0, s.batch * s.height * line * sizeof(T));
    for (long b = 0; b < s.batch; b++)
        for (long r = 0; r < rows; r++)
            for (long c = 0; c < columns; c++) {
                T *p = of_y + (b * s.height + 2 * r) * line + 2 * c * s.channels;
                const long at = ((b * rows + r) * columns + c) * s.channels;
                for (long o = 0; o < s.channels; o += lanes) {
                    const auto code = load_codes<T>(winner + at + o);
                    V g = load(upstream + at + o);
                    g = choose<T>(code > (integer)3, g * slope, g);
                    for (int q = 0; q < 4; q++)
                        store(p + q / 2 * line + q % 2 * s.channels + o,
                              choose<T>((code & (integer)3) == (integer)q, g, V{}));
                }
            }
}

#define FORWARD(T, K, C) forward<T, K, C>(s, images, weight, bias, (T)slope, out, winner)
#define BACKWARD_WEIGHT(T, K, C) \
    backward_weight<T, K, C>(s, images, (T)slope, winner, upstream, of_weight, of_bias)
#define BACKWARD_IMAGES(T, K, C) backward_images<T, K, C>(s, weight, (T)slope, winner, upstream, of_images)
#define BY_KERNEL(CALL, T)                                                                                   \
    (kernel == 5 ? s.channels == 3 ? CALL(T, 5, 3) : CALL(T, 5, 1)                                           \
                 : s.channels == 3 ? CALL(T, 3, 3) : CALL(T, 3, 1))

} // namespace

// One exported function a type; `target` compiles the same body once more for a newer machine.
#define BODY(name, T, parameters, body)                                                                      \
    static void name##_any parameters { body; }                                                              \
    NEWER(static void name##_newer parameters { body; })                                                     \
    extern "C" EXPORT void name parameters

#if defined(__x86_64__)
#define NEWER(definition) __attribute__((target("avx2,fma"))) definition
#define HAS_NEWER (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
#define CALL(name, arguments) { if (HAS_NEWER) name##_newer arguments; else name##_any arguments; }
#else
#define NEWER(definition)
#define CALL(name, arguments) { name##_any arguments; }
#endif
#define EXPORT __attribute__((visibility("default")))

#define DEFINE(T, suffix)                                                                                    \
    BODY(conv_forward_##suffix, T,                                                                           \
         (Shape s, long kernel, const T *images, const T *weight, const T *bias, double slope, T *out,       \
          uint8_t *winner),                                                                                  \
         BY_KERNEL(FORWARD, T))                                                                              \
    CALL(conv_forward_##suffix, (s, kernel, images, weight, bias, slope, out, winner))                       \
    BODY(conv_backward_weight_##suffix, T,                                                                   \
         (Shape s, long kernel, const T *images, double slope, const uint8_t *winner, const T *upstream,     \
          T *of_weight, T *of_bias),                                                                         \
         BY_KERNEL(BACKWARD_WEIGHT, T))                                                                      \
    CALL(conv_backward_weight_##suffix,                                                                      \
         (s, kernel, images, slope, winner, upstream, of_weight, of_bias))                                   \
    BODY(conv_backward_images_##suffix, T,                                                                   \
         (Shape s, long kernel, const T *weight, double slope, const uint8_t *winner, const T *upstream,     \
          T *of_images),                                                                                     \
         BY_KERNEL(BACKWARD_IMAGES, T))                                                                      \
    CALL(conv_backward_images_##suffix, (s, kernel, weight, slope, winner, upstream, of_images))             \
    BODY(pool_forward_##suffix, T, (Shape s, const T *y, double slope, T *out, uint8_t *winner),             \
         pool<T>(s, y, (T)slope, out, winner))                                                               \
    CALL(pool_forward_##suffix, (s, y, slope, out, winner))                                                  \
    BODY(pool_backward_##suffix, T,                                                                          \
         (Shape s, double slope, const uint8_t *winner, const T *upstream, T *of_y),                         \
         pool_backward<T>(s, (T)slope, winner, upstream, of_y))                                              \
    CALL(pool_backward_##suffix, (s, slope, winner, upstream, of_y))

DEFINE(float, float32)
DEFINE(double, float64)
