// What the kernels share: vectors of the widths that processors have, one body compiled for each, and the
// codes of pooling.
//
// Vectors are GCC's, lowered to what the target has. On x86 each exported function exists three times: for
// any machine (level 0), for AVX2 with FMA (1), for AVX-512 (2); its first argument says which one runs.
// Functions run on the caller's thread, add in an order that hangs on shapes and the width of a vector
// alone, and allocate only their scratch space.

#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#define INLINE inline __attribute__((always_inline))
#define EXPORT extern "C" __attribute__((visibility("default")))
#define UNROLL _Pragma("GCC unroll 32")

template <class T> struct Kind;
template <> struct Kind<float> { using integer = int32_t; };
template <> struct Kind<double> { using integer = int64_t; };

// Vectors of `bytes` of numbers, masks and codes; `loose` ones may lie at any address.
template <class T, int bytes> struct Vectors {
    static constexpr int lanes = bytes / sizeof(T);
    using integer = typename Kind<T>::integer;
    typedef T number __attribute__((vector_size(bytes)));
    typedef integer mask __attribute__((vector_size(bytes)));
    typedef T loose __attribute__((vector_size(bytes), aligned(sizeof(T)), may_alias));
    typedef integer loose_mask __attribute__((vector_size(bytes), aligned(sizeof(T)), may_alias));
    typedef uint8_t codes __attribute__((vector_size(lanes), aligned(1), may_alias));
};

template <int bytes, class T> INLINE typename Vectors<T, bytes>::number load(const T *p) {
    return *(const typename Vectors<T, bytes>::loose *)p;
}
template <class T, class V> INLINE void store(T *p, V v) {
    *(typename Vectors<T, sizeof(V)>::loose *)p = v;
}

// A number that a function is compiled for, as its argument.
template <int N> struct Constant { static constexpr int count = N; };

// An address that is computed here, once, and not again for each of the loads from constants behind it.
template <class T> INLINE const T *computed(const T *p) {
    asm("" : "+r"(p));
    return p;
}

// Scratch space that begins a line of the cache, so that no aligned vector lies in two.
template <class T> struct Aligned {
    static constexpr long line = 64;
    std::vector<T> room;
    T *begin;
    explicit Aligned(long count) : room(count + line / sizeof(T)) {
        begin = (T *)(((uintptr_t)room.data() + line - 1) / line * line);
    }
};

// Sizes of the images or inputs, and of what a layer makes of them.
struct Shape {
    long batch, channels, height, width, outputs;
};

// The code of a pooled place: which of its window's four won (bits 0 and 1, the first of equal ones), and
// whether the activation saw a negative number (bit 2).
template <class T, int bytes> INLINE void store_codes(uint8_t *p, typename Vectors<T, bytes>::mask code) {
    using codes = typename Vectors<T, bytes>::codes;
    *(codes *)p = __builtin_convertvector(code, codes);
}
template <class T, int bytes> INLINE typename Vectors<T, bytes>::mask load_codes(const uint8_t *p) {
    using V = Vectors<T, bytes>;
    return __builtin_convertvector(*(const typename V::codes *)p, typename V::mask);
}

// Of four numbers a lane the largest, plus a bias, activated; the code of what happened.
template <class T, int bytes, class V = typename Vectors<T, bytes>::number>
INLINE V settle(const V *four, V bias, T slope, typename Vectors<T, bytes>::mask &code) {
    using mask = typename Vectors<T, bytes>::mask;
    using integer = typename Vectors<T, bytes>::integer;
    auto best = four[0];
    code = mask{};
    UNROLL for (int q = 1; q < 4; q++) {
        code = four[q] > best ? mask{} + (integer)q : code;
        best = four[q] > best ? four[q] : best;
    }
    best += bias;
    code = best > (T)0 ? code : code | (integer)4;
    return best > (T)0 ? best : best * slope;
}

// Of P windows side by side the sums of Q vectors of outputs at four places, settled and written.
template <class T, int bytes, int P, int Q, bool coded, class V = typename Vectors<T, bytes>::number>
INLINE void finish(const V *sums, long outputs, const T *bias, T slope, T *out, uint8_t *winner) {
    constexpr int lanes = Vectors<T, bytes>::lanes;
    UNROLL for (int n = 0; n < P * Q; n++) {
        const long at = n / Q * outputs + n % Q * lanes;
        typename Vectors<T, bytes>::mask code;
        const V b = bias ? load<bytes>(bias + n % Q * lanes) : V{};
        store(out + at, settle<T, bytes>(sums + n * 4, b, slope, code));
        if constexpr (coded)
            store_codes<T, bytes>(winner + at, code);
    }
}

// What the code of a place says: the factor of its gradient, and where it lies from the corner of its window,
// whose second column is `right` of the first and whose second row `down`.
template <class T> struct Codes {
    T factor[8];
    long place[8];
    Codes(T slope, long right, long down) {
        for (int code = 0; code < 8; code++) {
            factor[code] = code & 4 ? slope : (T)1;
            place[code] = (code & 1 ? right : 0) + (code & 2 ? down : 0);
        }
    }
};

// Gradients before the activation and their places, of all windows of a few images, in a list for each
// output. Lists begin `apart` from each other.
template <class T> struct Lists {
    long apart;
    std::vector<T> gradients;
    std::vector<int32_t> places;
    // An odd number of lines apart: powers of two would meet in the same few places of the cache.
    Lists(long outputs, long longest)
        : apart(((longest / 16 + 1) | 1) * 16), gradients(outputs * apart), places(outputs * apart) {}

    // corner(e): where the window of entry e begins. Adds the gradients to those of the bias [O].
    template <class F>
    INLINE void fill(const T *upstream, const uint8_t *winner, long outputs, long count,
                     const Codes<T> &codes, T *of_bias, F corner) {
        for (long e = 0; e < count; e++, upstream += outputs, winner += outputs) {
            const long from = corner(e);
            for (long o = 0; o < outputs; o++) {
                const T g = upstream[o] * codes.factor[winner[o]];
                gradients[o * apart + e] = g;
                places[o * apart + e] = (int32_t)(from + codes.place[winner[o]]);
                if (of_bias)
                    of_bias[o] += g;
            }
        }
    }
};

#if defined(__x86_64__)
#define LEVEL_1(...) __attribute__((target("avx2,fma"))) __VA_ARGS__
#define LEVEL_2(...) __attribute__((target("avx2,fma,avx512f,avx512vl,avx512bw,avx512dq"))) __VA_ARGS__
#define ON_X86(...) __VA_ARGS__
constexpr int REGISTERS = 16;
#else
#define LEVEL_1(...)
#define LEVEL_2(...)
#define ON_X86(...)
constexpr int REGISTERS = 32;
#endif

// One exported function. Its body reads `bytes`, the width of a vector, and `registers`, how many there are.
#define FUNCTION(name, parameters, arguments, body)                                                          \
    static void name##_0 parameters { TARGET(16, REGISTERS) body; }                                          \
    LEVEL_1(static void name##_1 parameters { TARGET(32, 16) body; })                                        \
    LEVEL_2(static void name##_2 parameters { TARGET(64, 32) body; })                                        \
    EXPORT void name(long level, UNPACKED parameters) {                                                      \
        ON_X86(if (level == 2) return name##_2 arguments; if (level == 1) return name##_1 arguments;)        \
        name##_0 arguments;                                                                                  \
    }
#define TARGET(width, count) [[maybe_unused]] constexpr int bytes = width, registers = count;
#define UNPACKED(...) __VA_ARGS__
