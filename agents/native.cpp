// Q-learning with NatureCNN and 512-unit layers (Mnih et al. 2015) on AVX512-BF16 or Intel's AMX: passes in bfloat16
// with float32 sums, loss and optimizer in float32.
//
// Every product is one block of 32×32 sums (`block`, the one place that knows which of the two it has). A convolution is such a product without
// copies: on a flat grid of positions a kernel's tap is a fixed offset, so the rows of a block are consecutive positions
// and each step of the sum reads them at its tap's offset. Positions that stick out at the end of a grid's line come out
// as junk and are left aside. Strides are taken out of the layout: the first layer's input is cut into 4×4 patches (a
// 2×2 convolution over 21×21×64), its output into four planes of even and odd lines and columns (so that the second
// layer reads 2×2 from each).
//
// One operand of a product lies in rows along the sum; the other in pairs: element (k, n) at [k / 2][n][k % 2].

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>
#include <sys/syscall.h>
#include <unistd.h>

namespace {

using bf16 = uint16_t;

constexpr int BLOCK = 32;  // rows and columns of a block; also the samples that are worked on together

// Grids, (lines × columns) of positions, and channels.
constexpr int IMAGE = 21, IMAGE_CELLS = IMAGE * IMAGE, IMAGE_CHANNELS = 64;  // 4 frames × 4×4 pixels
constexpr int FINE = 20, FINE_CHANNELS = 32;
constexpr int PLANE = 10, PLANE_CELLS = PLANE * PLANE;  // one of four: (line % 2, column % 2) of the fine map
constexpr int MIDDLE = 9, MIDDLE_CELLS = MIDDLE * MIDDLE, CHANNELS = 64;
constexpr int COARSE = 7, COARSE_CELLS = COARSE * COARSE, FEATURES = COARSE_CELLS * CHANNELS;
constexpr int PADDED = 11, PADDED_CELLS = 128;  // 11×11 with a border of zeros, for gradients with respect to maps

// Sums of the three convolutions, k = (tap, channel of the input); and of the gradients with respect to their inputs.
constexpr int SUM1 = 4 * IMAGE_CHANNELS, SUM2 = 16 * FINE_CHANNELS, SUM3 = 9 * CHANNELS;

// Where each layer's weights lie in the packed copy.
constexpr int WEIGHTS1 = 0;
constexpr int WEIGHTS2 = WEIGHTS1 + SUM1 * FINE_CHANNELS;
constexpr int WEIGHTS3 = WEIGHTS2 + SUM2 * CHANNELS;
constexpr int BACK2 = WEIGHTS3 + SUM3 * CHANNELS;
constexpr int BACK3 = BACK2 + SUM2 * CHANNELS;
constexpr int HIDDEN = BACK3 + SUM3 * CHANNELS;

// What the forward pass keeps of one sample for the backward pass.
constexpr int KEPT_MIDDLE = 4 * PLANE_CELLS * FINE_CHANNELS;
constexpr int KEPT_FEATURES = KEPT_MIDDLE + MIDDLE_CELLS * CHANNELS;
constexpr int KEPT = KEPT_FEATURES + FEATURES;

// Memory that starts at a cache line, so that no row of a tile lies across two.
template <typename T>
struct Aligned {
    using value_type = T;
    T* allocate(size_t n) { return static_cast<T*>(std::aligned_alloc(64, (n * sizeof(T) + 63) / 64 * 64)); }
    void deallocate(T* p, size_t) { std::free(p); }
    bool operator==(const Aligned&) const { return true; }
    bool operator!=(const Aligned&) const { return false; }
};
using Maps = std::vector<bf16, Aligned<bf16>>;
using Sums = std::vector<float, Aligned<float>>;

bf16 narrow(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

__m512i narrow(__m512 low, __m512 high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }

#ifdef __AMX_BF16__

// Takes the tiles for a call and gives them back as they were: oneDNN thinks that it alone configures them.
class Tiles {
    alignas(64) uint8_t before_[64];

  public:
    Tiles() {
        alignas(64) uint8_t config[64] = {1};  // palette 1
        for (int tile = 0; tile < 8; tile++) {
            config[16 + 2 * tile] = 64;  // bytes a row
            config[48 + tile] = 16;      // rows
        }
        _tile_storeconfig(before_);
        _tile_loadconfig(config);
    }
    ~Tiles() {
        if (before_[0]) {
            _tile_loadconfig(before_);
        } else {
            _tile_release();
        }
    }
};

// sums (32×32, a line every `ld` floats) (+)= Σ over steps of a (32 rows × 32) · b (32 × 32).
// Step k reads row i of `a` at a + a_at[k] + i·lda and pair j of `b` at b + b_at[k] + j·ldb (both counted in bf16).
inline void block(float* sums, int ld, const bf16* a, int lda, const int* a_at, const bf16* b, int ldb,
                  const int* b_at, int steps, bool add = false) {
    if (add) {
        _tile_loadd(0, sums, ld * 4);
        _tile_loadd(1, sums + 16, ld * 4);
        _tile_loadd(2, sums + 16 * ld, ld * 4);
        _tile_loadd(3, sums + 16 * ld + 16, ld * 4);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int k = 0; k < steps; k++) {
        const bf16 *rows = a + a_at[k], *pairs = b + b_at[k];
        _tile_loadd(4, rows, lda * 2);
        _tile_loadd(6, pairs, ldb * 2);
        _tile_loadd(5, rows + 16 * lda, lda * 2);
        _tile_loadd(7, pairs + 32, ldb * 2);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, sums, ld * 4);
    _tile_stored(1, sums + 16, ld * 4);
    _tile_stored(2, sums + 16 * ld, ld * 4);
    _tile_stored(3, sums + 16 * ld + 16, ld * 4);
}

#else

struct Tiles {
    Tiles() {}
};

// The same product on the processor's vectors, 8 of the 32 rows at a time.
inline void block(float* sums, int ld, const bf16* a, int lda, const int* a_at, const bf16* b, int ldb,
                  const int* b_at, int steps, bool add = false) {
    for (int row = 0; row < BLOCK; row += 8, sums += 8 * ld, a += 8 * lda) {
        __m512 left[8], right[8];
        for (int i = 0; i < 8; i++) {
            left[i] = add ? _mm512_loadu_ps(sums + i * ld) : _mm512_setzero_ps();
            right[i] = add ? _mm512_loadu_ps(sums + i * ld + 16) : _mm512_setzero_ps();
        }
        for (int k = 0; k < steps; k++) {
            const bf16 *rows = a + a_at[k], *pairs = b + b_at[k];
            for (int j = 0; j < BLOCK / 2; j++, rows += 2, pairs += ldb) {
                const __m512bh b_left = (__m512bh)_mm512_loadu_si512(pairs);
                const __m512bh b_right = (__m512bh)_mm512_loadu_si512(pairs + 32);
                for (int i = 0; i < 8; i++) {
                    int pair;
                    memcpy(&pair, rows + i * lda, 4);
                    const __m512bh both = (__m512bh)_mm512_set1_epi32(pair);
                    left[i] = _mm512_dpbf16_ps(left[i], both, b_left);
                    right[i] = _mm512_dpbf16_ps(right[i], both, b_right);
                }
            }
        }
        for (int i = 0; i < 8; i++) {
            _mm512_storeu_ps(sums + i * ld, left[i]);
            _mm512_storeu_ps(sums + i * ld + 16, right[i]);
        }
    }
}

#endif

// to[column][row] = from[row][column] for 32×32, of which `rows` are read (the others are zeros) and `columns` written.
void transpose(const bf16* from, int ld_from, int rows, bf16* to, int ld_to, int columns) {
    __m512i x[32], y[32];
    for (int i = 0; i < 32; i++) x[i] = i < rows ? _mm512_loadu_si512(from + i * ld_from) : _mm512_setzero_si512();
    for (int g = 0; g < 32; g += 8) {  // 8×8 within each 128 bits
        __m512i *in = x + g, *out = y + g, s[8], t[8];
        for (int i = 0; i < 4; i++) {
            s[2 * i] = _mm512_unpacklo_epi16(in[2 * i], in[2 * i + 1]);
            s[2 * i + 1] = _mm512_unpackhi_epi16(in[2 * i], in[2 * i + 1]);
        }
        for (int h = 0; h < 8; h += 4) {
            t[h] = _mm512_unpacklo_epi32(s[h], s[h + 2]);
            t[h + 1] = _mm512_unpackhi_epi32(s[h], s[h + 2]);
            t[h + 2] = _mm512_unpacklo_epi32(s[h + 1], s[h + 3]);
            t[h + 3] = _mm512_unpackhi_epi32(s[h + 1], s[h + 3]);
        }
        for (int i = 0; i < 4; i++) {
            out[2 * i] = _mm512_unpacklo_epi64(t[i], t[i + 4]);
            out[2 * i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 4]);
        }
    }
    for (int j = 0; j < 8; j++) {  // then 4×4 of those
        const __m512i p = _mm512_shuffle_i32x4(y[j], y[8 + j], 0x44), q = _mm512_shuffle_i32x4(y[j], y[8 + j], 0xee);
        const __m512i r = _mm512_shuffle_i32x4(y[16 + j], y[24 + j], 0x44);
        const __m512i s = _mm512_shuffle_i32x4(y[16 + j], y[24 + j], 0xee);
        const __m512i lines[4] = {_mm512_shuffle_i32x4(p, r, 0x88), _mm512_shuffle_i32x4(p, r, 0xdd),
                                  _mm512_shuffle_i32x4(q, s, 0x88), _mm512_shuffle_i32x4(q, s, 0xdd)};
        for (int l = 0; l < 4; l++) {
            if (8 * l + j < columns) _mm512_storeu_si512(to + (8 * l + j) * ld_to, lines[l]);
        }
    }
}

// The same for any number of rows; `to` has lines of at least `rows` rounded up to 32.
void transpose_all(const bf16* from, int rows, int columns, bf16* to, int ld_to) {
    for (int row = 0; row < rows; row += BLOCK) {
        for (int column = 0; column < columns; column += BLOCK) {
            transpose(from + row * columns + column, columns, std::min(BLOCK, rows - row), to + column * ld_to + row,
                      ld_to, BLOCK);
        }
    }
}

// to[i / 2][column][i % 2] = from[i][column]; `rows` is even, `columns` a multiple of 32.
void pair_up(const bf16* from, int ld_from, int rows, int columns, bf16* to) {
    const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6,
                                         37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    for (int row = 0; row < rows; row += 2) {
        for (int column = 0; column < columns; column += BLOCK, to += 2 * BLOCK) {
            const __m512i even = _mm512_loadu_si512(from + row * ld_from + column);
            const __m512i odd = _mm512_loadu_si512(from + (row + 1) * ld_from + column);
            _mm512_storeu_si512(to, _mm512_permutex2var_epi16(even, low, odd));
            _mm512_storeu_si512(to + BLOCK, _mm512_permutex2var_epi16(even, high, odd));
        }
    }
}

// Rows of 32 sums plus bias, cut at 0, in bf16.
__m512i rectified(const float* sums, const float* bias) {
    const __m512 zero = _mm512_setzero_ps();
    return narrow(_mm512_max_ps(_mm512_add_ps(_mm512_loadu_ps(sums), _mm512_loadu_ps(bias)), zero),
                  _mm512_max_ps(_mm512_add_ps(_mm512_loadu_ps(sums + 16), _mm512_loadu_ps(bias + 16)), zero));
}

// Rows of 32 gradients in bf16, where the map they belong to was above 0.
__m512i masked(const float* sums, const bf16* map) {
    const __mmask32 open = _mm512_test_epi16_mask(_mm512_loadu_si512(map), _mm512_loadu_si512(map));
    return _mm512_maskz_mov_epi16(open, narrow(_mm512_loadu_ps(sums), _mm512_loadu_ps(sums + 16)));
}

void add_row(float* totals, __m512i row) {
    const __m512 low = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(row)), 16));
    const __m512i high = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(row, 1)), 16);
    _mm512_storeu_ps(totals, _mm512_add_ps(_mm512_loadu_ps(totals), low));
    _mm512_storeu_ps(totals + 16, _mm512_add_ps(_mm512_loadu_ps(totals + 16), _mm512_castsi512_ps(high)));
}

// A sum's steps: for each tap the channels, 32 at a time. `a_at` at the tap's offset, `b_at` one after the other.
struct Steps {
    std::vector<int> a_at, b_at;
    void tap(int offset, int channels, int columns) {
        for (int channel = 0; channel < channels; channel += BLOCK) {
            b_at.push_back(int(b_at.size()) * BLOCK * columns);
            a_at.push_back(offset * channels + channel);
        }
    }
    int count() const { return int(a_at.size()); }
};

// rows(first row, column, 32×32 sums) for blocks that cover `total` rows, the last one moved back to end with them.
template <typename Rows>
void convolve(const Steps& steps, const bf16* maps, int channels, const bf16* weights, int columns, int total,
              Rows rows) {
    alignas(64) float sums[BLOCK * BLOCK];
    for (int column = 0; column < columns; column += BLOCK) {
        for (int first = 0; first < total; first += BLOCK) {
            const int row = std::min(first, total - BLOCK);
            block(sums, BLOCK, maps + row * channels, channels, steps.a_at.data(), weights + 2 * column, 2 * columns,
                  steps.b_at.data(), steps.count());
            rows(row, column, sums);
        }
    }
}

Steps square(int size, int width, int channels, int columns) {
    Steps steps;
    for (int y = 0; y < size; y++) {
        for (int x = 0; x < size; x++) steps.tap(y * width + x, channels, columns);
    }
    return steps;
}

// The second layer's taps in the order of the planes: plane (line % 2, column % 2), then line / 2, column / 2.
Steps planes() {
    Steps steps;
    for (int plane = 0; plane < 4; plane++) {
        for (int tap = 0; tap < 4; tap++) {
            steps.tap(plane * PLANE_CELLS + tap / 2 * PLANE + tap % 2, FINE_CHANNELS, CHANNELS);
        }
    }
    return steps;
}

const Steps FORWARD1 = square(2, IMAGE, IMAGE_CHANNELS, FINE_CHANNELS);
const Steps FORWARD2 = planes();
const Steps FORWARD3 = square(3, MIDDLE, CHANNELS, CHANNELS);
const Steps BACKWARD2 = square(2, PADDED, CHANNELS, FINE_CHANNELS);
const Steps BACKWARD3 = square(3, PADDED, CHANNELS, CHANNELS);

// Where the numbers of a layout lie in a weight's own, (out, in, line, column).
using Places = std::vector<int>;

struct Layout {
    Places forward, back;  // of the packed copies, for the passes there and back
    Places from_sums;      // of the weight's own in the sums that are its gradient, [k][out]

    Layout(int outputs, int sum) : forward(outputs * sum), back(outputs * sum), from_sums(outputs * sum) {}

    // A weight `at`, of step `k` of the sums there, and of step `k_back` and column `in` of the sums back.
    void place(int at, int k, int out, int outputs, int k_back, int in, int back_at, int inputs) {
        forward[pair(k, out, outputs)] = at;
        back[back_at + pair(k_back, in, inputs)] = at;
        from_sums[at] = k * outputs + out;
    }
    static int pair(int k, int column, int columns) { return (k / 2 * columns + column) * 2 + k % 2; }
};

Layout layout1() {  // nothing goes back to the image: `back` is not used
    Layout layout(FINE_CHANNELS, SUM1);
    for (int at = 0; at < FINE_CHANNELS * SUM1; at++) {
        const int out = at / SUM1, frame = at / 64 % 4, y = at / 8 % 8, x = at % 8;
        const int k = (y / 4 * 2 + x / 4) * IMAGE_CHANNELS + frame * 16 + y % 4 * 4 + x % 4;
        layout.place(at, k, out, FINE_CHANNELS, 0, 0, 0, 0);
    }
    return layout;
}

Layout layout2() {  // taps by plane, then within the plane; back, a plane at a time and by the kernel turned around
    Layout layout(CHANNELS, SUM2);
    for (int at = 0; at < CHANNELS * SUM2; at++) {
        const int out = at / SUM2, in = at / 16 % FINE_CHANNELS, line = at / 4 % 4, column = at % 4;
        const int plane = line % 2 * 2 + column % 2, tap = line / 2 * 2 + column / 2;
        layout.place(at, (plane * 4 + tap) * FINE_CHANNELS + in, out, CHANNELS, (3 - tap) * CHANNELS + out, in,
                     plane * 4 * CHANNELS * FINE_CHANNELS, FINE_CHANNELS);
    }
    return layout;
}

Layout layout3() {
    Layout layout(CHANNELS, SUM3);
    for (int at = 0; at < CHANNELS * SUM3; at++) {
        const int out = at / SUM3, in = at / 9 % CHANNELS, tap = at % 9;
        layout.place(at, tap * CHANNELS + in, out, CHANNELS, (8 - tap) * CHANNELS + out, in, 0, CHANNELS);
    }
    return layout;
}

const Layout LAYOUT1 = layout1(), LAYOUT2 = layout2(), LAYOUT3 = layout3();

__m512 gathered(const float* from, const int* places) {
    return _mm512_i32gather_ps(_mm512_loadu_si512(places), from, 4);
}

void gather(const float* from, const Places& places, float scale, bf16* to) {
    for (size_t i = 0; i < places.size(); i += 32) {
        const __m512 low = gathered(from, &places[i]), high = gathered(from, &places[i + 16]);
        _mm512_storeu_si512(to + i, narrow(_mm512_mul_ps(low, _mm512_set1_ps(scale)),
                                           _mm512_mul_ps(high, _mm512_set1_ps(scale))));
    }
}

void gather(const float* from, const Places& places, float scale, float* to) {
    for (size_t i = 0; i < places.size(); i += 16) {
        _mm512_storeu_ps(to + i, _mm512_mul_ps(gathered(from, &places[i]), _mm512_set1_ps(scale)));
    }
}

// Scratch of one thread; zeros at first, and what no pass writes stays zero.
struct Scratch {
    Maps maps = Maps(KEPT), features = Maps(BLOCK * FEATURES);  // of a forward pass that keeps nothing
    Maps kept;                                                  // of one that does, KEPT a sample
    Maps feature_pairs = Maps(BLOCK * FEATURES);                // [feature / 2][sample][2]
    Maps sample_pairs;                                          // [sample / 2][feature][2]
    Maps d_units, d_units_t;                                    // [sample][unit], [unit][sample]
    Maps unit_pairs;                                            // [unit / 2][32 samples or features][2]
    Maps d_features = Maps(BLOCK * FEATURES + BLOCK);           // [sample][feature]
    Maps d_coarse = Maps(BLOCK * 64 * CHANNELS);                // [sample][pairs of positions, 9 wide]
    Maps middle_t = Maps(BLOCK * CHANNELS * 96);                // [sample][channel][position]
    Maps d_middle = Maps(BLOCK * 96 * CHANNELS);                // [sample][pairs of positions, 10 wide]
    Maps fine_t = Maps(BLOCK * 4 * FINE_CHANNELS * 128);        // [sample][plane][channel][position]
    Maps d_fine = Maps(448 * FINE_CHANNELS), d_fine_pairs = d_fine;          // positions, 21 wide
    Maps image_t = Maps(IMAGE_CHANNELS * 480);                               // [channel][position]
    Maps rows = Maps(96 * CHANNELS);                                         // positions
    Maps padded3 = Maps(PADDED_CELLS * CHANNELS), padded2 = padded3;         // positions, 11 wide
    Sums sums1 = Sums(SUM1 * FINE_CHANNELS), sums2 = Sums(SUM2 * CHANNELS), sums3 = Sums(SUM3 * CHANNELS);
    Sums d_weights = Sums(BLOCK * FEATURES);                                 // [32 units][feature]
};

Scratch& scratch() {
    thread_local Scratch own;
    return own;
}

// to[column / 2][row][column % 2] = from[row][column], for 32 rows: what is a row's sum becomes an operand in pairs.
void turn_into_pairs(const bf16* from, int ld_from, int columns, bf16* to) {
    alignas(64) bf16 turned[BLOCK * BLOCK];
    for (int column = 0; column < columns; column += BLOCK) {
        transpose(from + column, ld_from, BLOCK, turned, BLOCK, BLOCK);
        pair_up(turned, BLOCK, BLOCK, BLOCK, to + column * BLOCK);
    }
}

// Steps that read both operands one after the other.
struct Along {
    std::vector<int> a_at, b_at;
    Along(int count, int a_stride, int b_stride) {
        for (int k = 0; k < count; k++) a_at.push_back(k * a_stride), b_at.push_back(k * b_stride);
    }
    int count() const { return int(a_at.size()); }
};

// From one sample's image to its features, in the order of a (64, 7, 7) map; `kept` gets the maps on the way.
void see(const bf16* image, const bf16* packed, const float* bias1, const float* bias2, const float* bias3,
         bf16* kept, bf16* features) {
    convolve(FORWARD1, image, IMAGE_CHANNELS, packed + WEIGHTS1, FINE_CHANNELS, FINE * IMAGE - 1,
             [&](int row, int, const float* sums) {
                 int line = row / IMAGE, column = row % IMAGE;
                 for (int i = 0; i < BLOCK; i++) {
                     if (column < FINE) {
                         const int plane = line % 2 * 2 + column % 2, cell = line / 2 * PLANE + column / 2;
                         _mm512_storeu_si512(kept + (plane * PLANE_CELLS + cell) * FINE_CHANNELS,
                                             rectified(sums + i * BLOCK, bias1));
                     }
                     if (++column == IMAGE) column = 0, line++;
                 }
             });
    bf16* middle = kept + KEPT_MIDDLE;
    convolve(FORWARD2, kept, FINE_CHANNELS, packed + WEIGHTS2, CHANNELS, MIDDLE * PLANE - 1,
             [&](int row, int channel, const float* sums) {
                 for (int i = 0; i < BLOCK; i++) {
                     const int line = (row + i) / PLANE, column = (row + i) % PLANE;
                     if (column < MIDDLE) {
                         _mm512_storeu_si512(middle + (line * MIDDLE + column) * CHANNELS + channel,
                                             rectified(sums + i * BLOCK, bias2 + channel));
                     }
                 }
             });
    alignas(64) bf16 coarse[COARSE_CELLS * CHANNELS];
    convolve(FORWARD3, middle, CHANNELS, packed + WEIGHTS3, CHANNELS, COARSE * MIDDLE - 2,
             [&](int row, int channel, const float* sums) {
                 for (int i = 0; i < BLOCK; i++) {
                     const int line = (row + i) / MIDDLE, column = (row + i) % MIDDLE;
                     if (column < COARSE) {
                         _mm512_storeu_si512(coarse + (line * COARSE + column) * CHANNELS + channel,
                                             rectified(sums + i * BLOCK, bias3 + channel));
                     }
                 }
             });
    alignas(64) bf16 turned[CHANNELS * 64];
    transpose_all(coarse, COARSE_CELLS, CHANNELS, turned, 64);
    for (int channel = 0; channel < CHANNELS; channel++) {
        memcpy(features + channel * COARSE_CELLS, turned + channel * 64, COARSE_CELLS * sizeof(bf16));
    }
}

// What the caller knows of a weight or bias. `gradient` is room for it, and null for the hidden layers' weights.
struct Parameter {
    float *weight, *gradient, *first, *second;  // first and second: Adam's moments
    int64_t count;
    double square;  // out: its gradient's squared norm
};

// What `agents.dqn.PreparedBatch` holds; `images_t` is null unless the online network chooses the target's action.
struct Batch {
    const bf16 *images_tm1, *images_t;
    const int64_t* a_tm1;
    const float *r_t, *discount_t, *q_t;
    int samples, actions;
};

struct Adam {
    float clip_norm, rate, beta1, beta2, root, epsilon;  // rate and root with this step's bias corrections
};

// Σ x²; sixteen partial sums, whatever the count.
float square_sum(const float* x, int64_t count) {
    __m512 sums[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
    int64_t i = 0;
    for (; i + 64 <= count; i += 64) {
        for (int j = 0; j < 4; j++) {
            const __m512 part = _mm512_loadu_ps(x + i + 16 * j);
            sums[j] = _mm512_fmadd_ps(part, part, sums[j]);
        }
    }
    float total = _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3])));
    for (; i < count; i++) total += x[i] * x[i];
    return total;
}

// Adam (Kingma & Ba 2014, algorithm 1) in one pass over the memory: gradients scaled by `scale`, `rate` and `root` with
// the bias corrections of this step, and a bf16 copy of the weights where `copy` is not null.
void adam_step(const Adam& adam, float scale, float* weights, const float* gradients, float* firsts, float* seconds,
               int64_t count, bf16* copy) {
    const auto [clip_norm, rate, beta1, beta2, root, epsilon] = adam;
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) {
        const __m512 gradient = _mm512_mul_ps(_mm512_loadu_ps(gradients + i), _mm512_set1_ps(scale));
        __m512 first = _mm512_loadu_ps(firsts + i), second = _mm512_loadu_ps(seconds + i);
        first = _mm512_fmadd_ps(_mm512_set1_ps(1 - beta1), _mm512_sub_ps(gradient, first), first);
        second = _mm512_mul_ps(second, _mm512_set1_ps(beta2));
        second = _mm512_fmadd_ps(_mm512_mul_ps(gradient, gradient), _mm512_set1_ps(1 - beta2), second);
        const __m512 below = _mm512_fmadd_ps(_mm512_sqrt_ps(second), _mm512_set1_ps(root), _mm512_set1_ps(epsilon));
        const __m512 step = _mm512_div_ps(_mm512_mul_ps(first, _mm512_set1_ps(rate)), below);
        const __m512 weight = _mm512_sub_ps(_mm512_loadu_ps(weights + i), step);
        _mm512_storeu_ps(weights + i, weight);
        _mm512_storeu_ps(firsts + i, first);
        _mm512_storeu_ps(seconds + i, second);
        if (copy) _mm256_storeu_si256((__m256i*)(copy + i), (__m256i)_mm512_cvtneps_pbh(weight));
    }
    for (; i < count; i++) {
        const float gradient = gradients[i] * scale;
        firsts[i] += (1 - beta1) * (gradient - firsts[i]);
        seconds[i] = beta2 * seconds[i] + (1 - beta2) * gradient * gradient;
        weights[i] -= rate * firsts[i] / (std::sqrt(seconds[i]) * root + epsilon);
        if (copy) copy[i] = narrow(weights[i]);
    }
}

float dot(const float* x, const float* y, int count) {
    __m512 sum = _mm512_setzero_ps();
    for (int i = 0; i < count; i += 16) sum = _mm512_fmadd_ps(_mm512_loadu_ps(x + i), _mm512_loadu_ps(y + i), sum);
    return _mm512_reduce_add_ps(sum);
}

// Hidden units (samples, layers · width) to values (samples, actions); of two layers the second is the state value's
// (Wang et al. 2016, equation 9).
void values(const Parameter* outputs, int layers, int width, int actions, const float* hidden, int samples, float* q) {
    for (int i = 0; i < samples; i++, hidden += layers * width, q += actions) {
        float mean = 0;
        for (int a = 0; a < actions; a++) {
            q[a] = dot(hidden, outputs[0].weight + a * width, width) + outputs[1].weight[a];
            mean += q[a] / actions;
        }
        if (layers == 1) continue;
        const float value = dot(hidden + width, outputs[2].weight, width) + outputs[3].weight[0];
        for (int a = 0; a < actions; a++) q[a] += value - mean;
    }
}

// One sample's way back through an output layer, from d of the chosen output to the layer's gradients and the units'.
void output_backward(Parameter* output, int outputs, int chosen, float d_chosen, bool centred, const float* hidden,
                     int width, float* d_bias, bf16* d_units) {
    Sums d_hidden(width);
    for (int a = 0; a < outputs; a++) {
        const float d = (a == chosen ? d_chosen : 0.0f) - (centred ? d_chosen / outputs : 0.0f);
        if (d == 0) continue;
        output[1].gradient[a] += d;
        float *d_weight = output[0].gradient + a * width, *weight = output[0].weight + a * width;
        for (int u = 0; u < width; u++) {
            d_weight[u] += d * hidden[u];
            d_hidden[u] += d * weight[u];
        }
    }
    for (int u = 0; u < width; u++) {
        const float d = hidden[u] > 0 ? d_hidden[u] : 0.0f;
        d_bias[u] += d;
        d_units[u] = narrow(d);
    }
}

// d_features of 32 samples from own.d_units, where the features were above 0.
void features_backward(Scratch& own, const bf16* packed, const bf16* features, int first, int units) {
    const Along steps(units / BLOCK, BLOCK, BLOCK * BLOCK);
    alignas(64) float sums[BLOCK * BLOCK];
    for (int feature = 0; feature < FEATURES; feature += BLOCK) {
        pair_up(packed + HIDDEN + feature, FEATURES, units, BLOCK, own.unit_pairs.data());
        block(sums, BLOCK, own.d_units.data() + first * units, units, steps.a_at.data(), own.unit_pairs.data(),
              2 * BLOCK, steps.b_at.data(), steps.count());
        for (int i = 0; i < BLOCK; i++) {
            _mm512_storeu_si512(own.d_features.data() + i * FEATURES + feature,
                                masked(sums + i * BLOCK, features + i * KEPT + feature));
        }
    }
}

// Σ over all weights of a hidden layer, `width` units from `unit` on, of the squared gradient.
double hidden_square_sum(Scratch& own, int rounded, int units, int unit, int width) {
    const Along features_along(FEATURES / BLOCK, BLOCK, BLOCK * BLOCK);
    const Along units_along(width / BLOCK, BLOCK, BLOCK * BLOCK);
    const bf16 *features = own.kept.data() + KEPT_FEATURES, *d_units = own.d_units.data() + unit;
    alignas(64) float like[BLOCK * BLOCK], d_like[BLOCK * BLOCK];
    double total = 0;
    for (int j = 0; j < rounded; j += BLOCK) {
        turn_into_pairs(features + j * KEPT, KEPT, FEATURES, own.feature_pairs.data());
        turn_into_pairs(d_units + j * units, units, width, own.unit_pairs.data());
        for (int i = 0; i < rounded; i += BLOCK) {
            block(like, BLOCK, features + i * KEPT, KEPT, features_along.a_at.data(), own.feature_pairs.data(),
                  2 * BLOCK, features_along.b_at.data(), features_along.count());
            block(d_like, BLOCK, d_units + i * units, units, units_along.a_at.data(), own.unit_pairs.data(),
                  2 * BLOCK, units_along.b_at.data(), units_along.count());
            for (int at = 0; at < BLOCK * BLOCK; at++) total += double(like[at]) * d_like[at];
        }
    }
    return std::max(total, 0.0);
}

// From d_features of up to 32 samples to the gradients of the convolutions' biases, and to the sums that their weights'
// are: own.sums1, 2 and 3, added to where `add`.
void maps_backward(Scratch& own, const bf16* images, int count, const bf16* packed, const bf16* kept,
                   Parameter* parameters, bool add) {
    float *d_bias1 = parameters[1].gradient, *d_bias2 = parameters[3].gradient, *d_bias3 = parameters[5].gradient;
    // Back through each sample's maps. The first layer's gradients are summed here, the others' below.
    for (int i = 0; i < count; i++) {
        const bf16* fine = kept + i * KEPT;
        const bf16* middle = fine + KEPT_MIDDLE;
        bf16* rows = own.rows.data();

        for (int channel = 0; channel < CHANNELS; channel += BLOCK) {
            alignas(64) bf16 turned[64 * BLOCK];
            const bf16* from = own.d_features.data() + i * FEATURES + channel * COARSE_CELLS;
            transpose(from, COARSE_CELLS, BLOCK, turned, BLOCK, BLOCK);
            transpose(from + BLOCK, COARSE_CELLS, BLOCK, turned + BLOCK * BLOCK, BLOCK, COARSE_CELLS - BLOCK);
            for (int cell = 0; cell < COARSE_CELLS; cell++) {
                const int line = cell / COARSE, column = cell % COARSE;
                const __m512i d = _mm512_load_si512(turned + cell * BLOCK);
                add_row(d_bias3 + channel, d);
                _mm512_storeu_si512(rows + (line * MIDDLE + column) * CHANNELS + channel, d);
                const int inside = (line + 2) * PADDED + column + 2;
                _mm512_storeu_si512(own.padded3.data() + inside * CHANNELS + channel, d);
            }
        }
        for (int line = 0; line < COARSE; line++) {  // junk columns; lines beyond are zeroed with them
            memset(rows + (line * MIDDLE + COARSE) * CHANNELS, 0, 2 * CHANNELS * sizeof(bf16));
        }
        memset(rows + COARSE * MIDDLE * CHANNELS, 0, CHANNELS * sizeof(bf16));
        pair_up(rows, CHANNELS, 64, CHANNELS, own.d_coarse.data() + i * 64 * CHANNELS);
        transpose_all(middle, MIDDLE_CELLS, CHANNELS, own.middle_t.data() + i * CHANNELS * 96, 96);

        convolve(BACKWARD3, own.padded3.data(), CHANNELS, packed + BACK3, CHANNELS, MIDDLE * PADDED - 2,
                 [&](int row, int channel, const float* d) {
                     for (int j = 0; j < BLOCK; j++) {
                         const int line = (row + j) / PADDED, column = (row + j) % PADDED;
                         if (column >= MIDDLE) continue;
                         const __m512i open =
                             masked(d + j * BLOCK, middle + (line * MIDDLE + column) * CHANNELS + channel);
                         const int inside = (line + 1) * PADDED + column + 1;
                         _mm512_storeu_si512(own.padded2.data() + inside * CHANNELS + channel, open);
                     }
                 });
        for (int line = 0; line < MIDDLE; line++) {
            for (int column = 0; column < PLANE; column++) {  // the padded grid has a zero behind each line
                for (int channel = 0; channel < CHANNELS; channel += BLOCK) {
                    const int inside = (line + 1) * PADDED + column + 1;
                    const __m512i d = _mm512_loadu_si512(own.padded2.data() + inside * CHANNELS + channel);
                    add_row(d_bias2 + channel, d);
                    _mm512_storeu_si512(rows + (line * PLANE + column) * CHANNELS + channel, d);
                }
            }
        }
        memset(rows + MIDDLE * PLANE * CHANNELS, 0, 6 * CHANNELS * sizeof(bf16));
        pair_up(rows, CHANNELS, 96, CHANNELS, own.d_middle.data() + i * 96 * CHANNELS);
        for (int plane = 0; plane < 4; plane++) {
            transpose_all(fine + plane * PLANE_CELLS * FINE_CHANNELS, PLANE_CELLS, FINE_CHANNELS,
                          own.fine_t.data() + (i * 4 + plane) * FINE_CHANNELS * 128, 128);
            convolve(BACKWARD2, own.padded2.data(), CHANNELS,
                     packed + BACK2 + plane * 4 * CHANNELS * FINE_CHANNELS, FINE_CHANNELS, PLANE * PADDED - 1,
                     [&](int row, int, const float* d) {
                         for (int j = 0; j < BLOCK; j++) {
                             const int line = (row + j) / PADDED, column = (row + j) % PADDED;
                             if (column >= PLANE) continue;
                             const bf16* map = fine + (plane * PLANE_CELLS + line * PLANE + column) * FINE_CHANNELS;
                             const int at = (line * 2 + plane / 2) * IMAGE + column * 2 + plane % 2;
                             _mm512_storeu_si512(own.d_fine.data() + at * FINE_CHANNELS, masked(d + j * BLOCK, map));
                         }
                     });
        }
        for (int at = 0; at < FINE * IMAGE; at++) {
            add_row(d_bias1, _mm512_loadu_si512(own.d_fine.data() + at * FINE_CHANNELS));
        }
        pair_up(own.d_fine.data(), FINE_CHANNELS, 448, FINE_CHANNELS, own.d_fine_pairs.data());
        transpose_all(images + i * IMAGE_CELLS * IMAGE_CHANNELS, IMAGE_CELLS, IMAGE_CHANNELS,
                      own.image_t.data(), 480);
        int along[14], pairs[14];
        for (int k = 0; k < 14; k++) along[k] = k * BLOCK, pairs[k] = k * BLOCK * FINE_CHANNELS;
        for (int tap = 0; tap < 4; tap++) {
            for (int channel = 0; channel < IMAGE_CHANNELS; channel += BLOCK) {
                block(own.sums1.data() + (tap * IMAGE_CHANNELS + channel) * FINE_CHANNELS, FINE_CHANNELS,
                      own.image_t.data() + channel * 480 + tap / 2 * IMAGE + tap % 2, 480, along,
                      own.d_fine_pairs.data(), 2 * FINE_CHANNELS, pairs, 14, true);
            }
        }
    }

    // The weights of the third and the second layer: sums over all positions of all samples.
    std::vector<int> along, pairs;
    for (int k = 0; k < 2 * count; k++) {
        along.push_back(k / 2 * CHANNELS * 96 + k % 2 * BLOCK);
        pairs.push_back(k * BLOCK * CHANNELS);
    }
    for (int k = 0; k < 9 * CHANNELS; k += BLOCK) {
        const int tap = k / CHANNELS, offset = tap / 3 * MIDDLE + tap % 3;
        for (int out = 0; out < CHANNELS; out += BLOCK) {
            block(own.sums3.data() + k * CHANNELS + out, CHANNELS, own.middle_t.data() + k % CHANNELS * 96 + offset,
                  96, along.data(), own.d_coarse.data() + 2 * out, 2 * CHANNELS, pairs.data(), 2 * count, add);
        }
    }
    along.clear(), pairs.clear();
    for (int k = 0; k < 3 * count; k++) {
        along.push_back(k / 3 * 4 * FINE_CHANNELS * 128 + k % 3 * BLOCK);
        pairs.push_back(k * BLOCK * CHANNELS);
    }
    for (int step = 0; step < 16; step++) {
        const int plane = step / 4, offset = step % 4 / 2 * PLANE + step % 2;
        for (int out = 0; out < CHANNELS; out += BLOCK) {
            block(own.sums2.data() + step * FINE_CHANNELS * CHANNELS + out, CHANNELS,
                  own.fine_t.data() + plane * FINE_CHANNELS * 128 + offset, 128, along.data(),
                  own.d_middle.data() + 2 * out, 2 * CHANNELS, pairs.data(), 3 * count, add);
        }
    }
}

}  // namespace

extern "C" {

int saccade_packed_size(int units) { return HIDDEN + units * FEATURES; }

// Asks the kernel for the tiles, where there are any; once a process. Returns 0 when the passes may be used.
int saccade_begin() {
#ifdef __AMX_BF16__
    return int(syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */));
#else
    return 0;
#endif
}

// Lays the convolutions' weights out for the passes: weight1 (32, 4, 8, 8), weight2 (64, 32, 4, 4), weight3 (64, 64, 3,
// 3). The first layer's are divided by 255, so that images stay whole numbers, exact in bf16. The hidden layer's
// (units, 3136) follow as they are, from `saccade_packed_size(0)` on; whoever changes them copies them there.
void saccade_pack(const float* weight1, const float* weight2, const float* weight3, bf16* packed) {
    gather(weight1, LAYOUT1.forward, 1 / 255.0f, packed + WEIGHTS1);
    gather(weight2, LAYOUT2.forward, 1, packed + WEIGHTS2);
    gather(weight3, LAYOUT3.forward, 1, packed + WEIGHTS3);
    gather(weight2, LAYOUT2.back, 1, packed + BACK2);
    gather(weight3, LAYOUT3.back, 1, packed + BACK3);
}

// Cuts stacks (samples, 4, 84, 84) uint8 into images (samples, 441, 64): 4×4 patches, whole numbers in bf16.
void saccade_images(const uint8_t* stacks, int samples, bf16* images) {
    for (int sample = 0; sample < samples; sample++, stacks += 4 * 84 * 84, images += IMAGE_CELLS * IMAGE_CHANNELS) {
        for (int frame = 0; frame < 4; frame++) {
            for (int cell = 0; cell < IMAGE_CELLS; cell++) {
                const uint8_t* corner = stacks + frame * 84 * 84 + cell / IMAGE * 4 * 84 + cell % IMAGE * 4;
                int lines[4];
                for (int line = 0; line < 4; line++) memcpy(&lines[line], corner + line * 84, 4);
                const __m128i bytes = _mm_set_epi32(lines[3], lines[2], lines[1], lines[0]);
                const __m512 pixels = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes));
                _mm256_storeu_si256((__m256i*)(images + cell * IMAGE_CHANNELS + frame * 16),
                                    (__m256i)_mm512_cvtneps_pbh(pixels));
            }
        }
    }
}

// images (samples, 441, 64) to the units of the hidden layer (samples, units), cut at 0. `kept` holds
// KEPT a sample for the way back, with room for samples rounded up to 32; or it is null.
void saccade_forward(const bf16* images, int samples, const bf16* packed, const float* bias1, const float* bias2,
                     const float* bias3, const float* bias, int units, bf16* kept, float* hidden) {
    Tiles tiles;
    Scratch& own = scratch();
    const Along steps(FEATURES / BLOCK, BLOCK, BLOCK * BLOCK);
    alignas(64) float sums[BLOCK * BLOCK];
    for (int first = 0; first < samples; first += BLOCK) {
        const int count = std::min(BLOCK, samples - first);
        bf16* maps = kept ? kept + first * KEPT : own.maps.data();
        bf16* features = kept ? maps + KEPT_FEATURES : own.features.data();
        const int ld = kept ? KEPT : FEATURES;
        for (int i = 0; i < count; i++) {
            see(images + (first + i) * IMAGE_CELLS * IMAGE_CHANNELS, packed, bias1, bias2, bias3,
                kept ? maps + i * KEPT : maps, features + i * ld);
        }
        for (int i = count; i < BLOCK; i++) memset(features + i * ld, 0, FEATURES * sizeof(bf16));
        turn_into_pairs(features, ld, FEATURES, own.feature_pairs.data());
        for (int unit = 0; unit < units; unit += BLOCK) {
            block(sums, BLOCK, packed + HIDDEN + unit * FEATURES, FEATURES, steps.a_at.data(),
                  own.feature_pairs.data(), 2 * BLOCK, steps.b_at.data(), steps.count());
            for (int i = 0; i < count; i++) {
                for (int u = 0; u < BLOCK; u++) {
                    hidden[(first + i) * units + unit + u] = std::max(sums[u * BLOCK + i] + bias[unit + u], 0.0f);
                }
            }
        }
    }
}

// One update of Q-learning (losses.py has it in torch, and its sources): forward passes, Huber loss, gradients, clipping,
// Adam. `parameters`: weight and bias of the three convolutions, of the hidden layers, of the output layers. `numbers`
// gets the mean loss, the mean absolute error, the mean value of the chosen actions and the gradient's norm before
// clipping. The gradients of the hidden layers' weights, nineteen twentieths of all, are never written down: they are
// products of the units' gradients d and the features x, and their norm follows from those alone, the sum of
// (x_i · x_j)(d_i · d_j) over all pairs of samples.
void saccade_learn(const Batch* batch, bf16* packed, Parameter* parameters, int hidden_layers, const Adam* adam,
                   float* numbers) {
    Scratch& own = scratch();
    const int samples = batch->samples, actions = batch->actions;
    const int width = int(parameters[7].count), units = width * hidden_layers;
    const int rounded = (samples + BLOCK - 1) / BLOCK * BLOCK;
    Parameter* outputs = parameters + 6 + 2 * hidden_layers;
    Sums bias(units), hidden(samples * units), q_tm1(samples * actions);
    Sums selector(batch->q_t, batch->q_t + samples * actions);
    for (int u = 0; u < units; u++) bias[u] = parameters[7 + u / width * 2].weight[u % width];
    own.kept.resize(rounded * KEPT);
    const auto forward = [&](const bf16* images, bf16* kept, Sums& q) {
        saccade_forward(images, samples, packed, parameters[1].weight, parameters[3].weight, parameters[5].weight,
                        bias.data(), units, kept, hidden.data());
        values(outputs, hidden_layers, width, actions, hidden.data(), samples, q.data());
    };
    if (batch->images_t) forward(batch->images_t, nullptr, selector);  // double Q-learning
    forward(batch->images_tm1, own.kept.data(), q_tm1);

    for (int i = 0; i < 6 + 4 * hidden_layers; i++) {
        if (parameters[i].gradient) memset(parameters[i].gradient, 0, parameters[i].count * sizeof(float));
    }
    own.d_units.assign(rounded * units, 0);
    std::fill(numbers, numbers + 4, 0.0f);
    for (int i = 0; i < samples; i++) {
        const float* best = std::max_element(&selector[i * actions], &selector[(i + 1) * actions]);
        const float target = batch->r_t[i] + batch->discount_t[i] * batch->q_t[best - selector.data()];
        const float chosen = q_tm1[i * actions + batch->a_tm1[i]], error = target - chosen, size = std::abs(error);
        numbers[0] += (size <= 1 ? 0.5f * error * error : size - 0.5f) / samples;
        numbers[1] += size / samples;
        numbers[2] += chosen / samples;
        const float d_chosen = (error < -1 ? 1.0f : error > 1 ? -1.0f : -error) / samples;
        for (int layer = 0; layer < hidden_layers; layer++) {
            output_backward(outputs + 2 * layer, layer == 0 ? actions : 1, layer == 0 ? int(batch->a_tm1[i]) : 0,
                            d_chosen, layer == 0 && hidden_layers == 2, &hidden[i * units + layer * width], width,
                            parameters[7 + 2 * layer].gradient, &own.d_units[i * units + layer * width]);
        }
    }

    Tiles tiles;
    own.sample_pairs.resize(rounded * FEATURES);
    own.d_units_t.resize(rounded * units);
    own.unit_pairs.resize(units * BLOCK);
    std::fill(own.sums1.begin(), own.sums1.end(), 0.0f);
    for (int first = 0; first < samples; first += BLOCK) {
        const bf16* kept = own.kept.data() + first * KEPT;
        for (int u = 0; u < units; u += BLOCK) {
            transpose(own.d_units.data() + first * units + u, units, BLOCK, own.d_units_t.data() + u * rounded + first,
                      rounded, BLOCK);
        }
        pair_up(kept + KEPT_FEATURES, KEPT, BLOCK, FEATURES, own.sample_pairs.data() + first * FEATURES);
        features_backward(own, packed, kept + KEPT_FEATURES, first, units);
        maps_backward(own, batch->images_tm1 + first * IMAGE_CELLS * IMAGE_CHANNELS, std::min(BLOCK, samples - first),
                      packed, kept, parameters, first > 0);
    }
    gather(own.sums1.data(), LAYOUT1.from_sums, 1 / 255.0f, parameters[0].gradient);
    gather(own.sums2.data(), LAYOUT2.from_sums, 1, parameters[2].gradient);
    gather(own.sums3.data(), LAYOUT3.from_sums, 1, parameters[4].gradient);

    double squares = 0;
    for (int i = 0; i < 6 + 4 * hidden_layers; i++) {
        Parameter& p = parameters[i];
        const int unit = (i - 6) / 2 * width;
        p.square = p.gradient ? square_sum(p.gradient, p.count) : hidden_square_sum(own, rounded, units, unit, width);
        squares += p.square;
    }
    const float norm = numbers[3] = float(std::sqrt(squares));
    const float scale = adam->clip_norm > 0 && norm > adam->clip_norm ? adam->clip_norm / norm : 1.0f;
    for (int i = 0; i < 6 + 4 * hidden_layers; i++) {
        const Parameter& p = parameters[i];
        if (p.gradient) adam_step(*adam, scale, p.weight, p.gradient, p.first, p.second, p.count, nullptr);
    }
    const Along samples_along(rounded / BLOCK, BLOCK, BLOCK * FEATURES);
    for (int unit = 0; unit < units; unit += BLOCK) {
        for (int feature = 0; feature < FEATURES; feature += BLOCK) {
            block(own.d_weights.data() + feature, FEATURES, own.d_units_t.data() + unit * rounded, rounded,
                  samples_along.a_at.data(), own.sample_pairs.data() + 2 * feature, 2 * FEATURES,
                  samples_along.b_at.data(), samples_along.count());
        }
        const Parameter& p = parameters[6 + unit / width * 2];
        const int at = unit % width * FEATURES;
        adam_step(*adam, scale, p.weight + at, own.d_weights.data(), p.first + at, p.second + at, BLOCK * FEATURES,
                  packed + HIDDEN + unit * FEATURES);
    }
    saccade_pack(parameters[0].weight, parameters[2].weight, parameters[4].weight, packed);
}
}
