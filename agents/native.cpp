// Q-learning with NatureCNN and 512-unit layers (Mnih et al. 2015) on AVX512-BF16 or Intel's AMX: passes in bfloat16
// with float32 sums, loss and optimizer in float32.
//
// Every product is made by `block` (32×32 sums) or by `convolve`, the two places that know which processor it is. A
// convolution is a product without copies: on a flat grid of positions a kernel's tap is a fixed offset, so the rows of
// a product are consecutive positions and each step of the sum reads them at its tap's offset. Strides are taken out of
// the layout: the first layer's input is cut into 4×4 patches (a 2×2 convolution over 21×21×64), its output into four
// planes of even and odd lines and columns (so that the second layer reads 2×2 from each).
//
// One operand of a product lies in rows along the sum; the other in pairs: element (k, n) at [k / 2][n][k % 2].

#include <immintrin.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
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
constexpr int64_t KEPT = KEPT_FEATURES + FEATURES;

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

// Where the steps of a sum find their operands, 32 numbers of each row at a time.
struct Steps {
    std::vector<int> a_at, b_at;
    int kernel_lines = 0;  // of a convolution over a map with `kernel_lines - 1` lines of zeros above it and below

    struct Range {
        int first, last;
    };
    Range all() const { return {0, count()}; }
    // Those that read anything but such zeros for a line of the result, which has so many.
    Range touching(int line, int lines) const {
        if (!kernel_lines) return all();
        const int each = count() / kernel_lines;
        return {each * std::max(0, kernel_lines - 1 - line), each * std::min(kernel_lines, lines - line)};
    }

    // One after the other in both operands.
    static Steps along(int count, int a_stride, int b_stride) {
        Steps steps;
        for (int k = 0; k < count; k++) steps.add(k * a_stride, k * b_stride);
        return steps;
    }
    // A convolution's tap: its channels at the tap's offset; in `b`, which has so many columns, what comes next.
    void tap(int offset, int channels, int columns) {
        for (int channel = 0; channel < channels; channel += BLOCK) {
            add(offset * channels + channel, count() * BLOCK * columns);
        }
    }
    void add(int a, int b) { a_at.push_back(a), b_at.push_back(b); }
    int count() const { return int(a_at.size()); }
};

// sums (32×32, a line every `ld` floats) (+)= Σ over steps of a (32 rows × 32) · b (32 × 32).
// Step k reads row i of `a` at a + a_at[k] + i·lda and pair j of `b` at b + b_at[k] + j·ldb (both counted in bf16).
void block(float* sums, int ld, const bf16* a, int lda, const bf16* b, int ldb, const Steps& steps, bool add = false);

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

void block(float* sums, int ld, const bf16* a, int lda, const bf16* b, int ldb, const Steps& steps, bool add) {
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
    for (int k = 0; k < steps.count(); k++) {
        const bf16 *rows = a + steps.a_at[k], *pairs = b + steps.b_at[k];
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

// cell(line, column, first of 32 output channels, their sums) for each cell of a grid of lines × COLUMNS, which lies in
// the maps as a grid `width` wide. Positions that stick out at the end of a line come out as junk and are left aside.
template <int COLUMNS, typename Cell>
void convolve(const Steps& steps, const bf16* maps, int channels, const bf16* weights, int outputs, int lines,
              int width, Cell cell) {
    const int total = (lines - 1) * width + COLUMNS;
    alignas(64) float sums[BLOCK * BLOCK];
    for (int output = 0; output < outputs; output += BLOCK) {
        for (int first = 0; first < total; first += BLOCK) {
            const int row = std::min(first, total - BLOCK);  // the last rows end with the grid
            block(sums, BLOCK, maps + row * channels, channels, weights + 2 * output, 2 * outputs, steps);
            int line = row / width, column = row % width;
            for (int i = 0; i < BLOCK; i++) {
                if (column < COLUMNS) cell(line, column, output, sums + i * BLOCK);
                if (++column == width) column = 0, line++;
            }
        }
    }
}

#else

struct Tiles {
    Tiles() {}
};

// `block` for a few rows and some of the steps: as many sums as there are registers for. Inlined, since the strides are
// constants then.
template <int ROWS>
[[gnu::always_inline]] inline void band(float* sums, int ld, const bf16* a, int lda, const bf16* b, int ldb,
                                        const Steps& steps, Steps::Range range, bool add = false) {
    __m512 left[ROWS], right[ROWS];
    for (int i = 0; i < ROWS; i++) {
        left[i] = add ? _mm512_loadu_ps(sums + i * ld) : _mm512_setzero_ps();
        right[i] = add ? _mm512_loadu_ps(sums + i * ld + 16) : _mm512_setzero_ps();
    }
    for (int k = range.first; k < range.last; k++) {
        const bf16 *rows = a + steps.a_at[k], *pairs = b + steps.b_at[k];
        for (int j = 0; j < BLOCK / 2; j++, rows += 2, pairs += ldb) {
            const __m512bh b_left = (__m512bh)_mm512_loadu_si512(pairs);
            const __m512bh b_right = (__m512bh)_mm512_loadu_si512(pairs + 32);
            for (int i = 0; i < ROWS; i++) {
                int pair;
                memcpy(&pair, rows + i * lda, 4);
                const __m512bh both = (__m512bh)_mm512_set1_epi32(pair);
                left[i] = _mm512_dpbf16_ps(left[i], both, b_left);
                right[i] = _mm512_dpbf16_ps(right[i], both, b_right);
            }
        }
    }
    for (int i = 0; i < ROWS; i++) {
        _mm512_storeu_ps(sums + i * ld, left[i]);
        _mm512_storeu_ps(sums + i * ld + 16, right[i]);
    }
}

void block(float* sums, int ld, const bf16* a, int lda, const bf16* b, int ldb, const Steps& steps, bool add) {
    constexpr int ROWS = 8;
    for (int row = 0; row < BLOCK; row += ROWS) {
        band<ROWS>(sums + row * ld, ld, a + row * lda, lda, b, ldb, steps, steps.all(), add);
    }
}

// cell(line, column, first of 32 output channels, their sums) for each cell of a grid of lines × COLUMNS, which lies in
// the maps as a grid `width` wide.
template <int COLUMNS, typename Cell>
[[gnu::always_inline]] inline void convolve(const Steps& steps, const bf16* maps, int channels, const bf16* weights,
                                            int outputs, int lines, int width, Cell cell) {
    constexpr int ROWS = COLUMNS > 10 ? COLUMNS / 2 : COLUMNS;  // a line, or half of one
    alignas(64) float sums[ROWS * BLOCK];
    for (int output = 0; output < outputs; output += BLOCK) {
        for (int row = 0; row < lines * COLUMNS; row += ROWS) {
            const int line = row / COLUMNS, column = row % COLUMNS;
            band<ROWS>(sums, BLOCK, maps + (line * width + column) * channels, channels, weights + 2 * output,
                       2 * outputs, steps, steps.touching(line, lines));
            for (int i = 0; i < ROWS; i++) cell(line, column + i, output, sums + i * BLOCK);
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

Steps square(int size, int width, int channels, int columns, int kernel_lines = 0) {
    Steps steps;
    steps.kernel_lines = kernel_lines;
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
const Steps BACKWARD2 = square(2, PADDED, CHANNELS, FINE_CHANNELS, 2);
const Steps BACKWARD3 = square(3, PADDED, CHANNELS, CHANNELS, 3);

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

// Work that threads share. Whoever learns lays out a phase of items, and each thread that is there takes the next one.
// Which thread it was shows nowhere: an item writes to places of its own.
struct Phase {
    const std::function<void(int)>& item;
    const int count;
    std::atomic<int> next{0};

    void work() {
        for (int i; (i = next.fetch_add(1)) < count;) item(i);
    }
};

std::atomic<bool> taken{false};           // the following belong to one update at a time
std::atomic<bool> learning{false};        // an update is under way, and is helped with
std::atomic<Phase*> shared_phase{nullptr};
std::atomic<int> helpers{0};              // threads that may hold `shared_phase`
std::atomic<unsigned> rounding{0};        // the learner's rounding and its treatment of denormals, for its helpers

// For whoever waits in a loop: now and then the processor goes to another thread that wants it.
struct Wait {
    int rounds = 0;

    void pause() {
        _mm_pause();
        if (++rounds % 256 == 0) sched_yield();
    }
};

// item(0), …, item(count - 1); where they are `shared`, with the threads that are in `saccade_help`.
void share(bool shared, int count, const std::function<void(int)>& item) {
    Phase phase{item, count};
    if (shared) shared_phase = &phase;
    phase.work();
    if (!shared) return;
    shared_phase = nullptr;
    for (Wait wait; helpers;) wait.pause();
}

constexpr int GROUPS = 8, GROUP = BLOCK / GROUPS;  // of samples whose first layer's gradients are summed together

// What an update keeps, of up to 32 samples where nothing else is said.
struct Update {
    Maps kept, d_units, d_units_t, sample_pairs;       // of all samples: KEPT each, [sample][unit], [unit][sample],
                                                       // [sample / 2][feature][2]
    Maps d_features = Maps(BLOCK * FEATURES + BLOCK);  // [sample][feature]
    Maps d_coarse = Maps(BLOCK * 64 * CHANNELS);       // [sample][pairs of positions, 9 wide]
    Maps middle_t = Maps(BLOCK * CHANNELS * 96);       // [sample][channel][position]
    Maps d_middle = Maps(BLOCK * 96 * CHANNELS);       // [sample][pairs of positions, 10 wide]
    Maps fine_t = Maps(BLOCK * 4 * FINE_CHANNELS * 128);  // [sample][plane][channel][position]
    Sums sums1[GROUPS], sums2 = Sums(SUM2 * CHANNELS), sums3 = Sums(SUM3 * CHANNELS);
    float d_biases[GROUPS][3][CHANNELS];
};

// Scratch of one thread; zeros at first, and what no pass writes stays zero.
struct Scratch {
    Maps maps = Maps(KEPT), features = Maps(BLOCK * FEATURES), feature_pairs = features;  // of passes that keep nothing
    Maps unit_pairs;                                                  // [unit / 2][32 samples or features][2]
    Maps d_fine = Maps(448 * FINE_CHANNELS), d_fine_pairs = d_fine;   // positions, 21 wide
    Maps image = Maps(IMAGE_CELLS * IMAGE_CHANNELS);                  // what `cut` returns
    Maps image_t = Maps(IMAGE_CHANNELS * 480);                        // [channel][position]
    Maps rows = Maps(96 * CHANNELS);                                  // positions
    Maps padded3 = Maps(PADDED_CELLS * CHANNELS), padded2 = padded3;  // positions, 11 wide
    Sums d_weights = Sums(BLOCK * FEATURES);                          // [32 units][feature]
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

constexpr int64_t STACK = 4 * 84 * 84;  // bytes of a sample's frames

// Asks for a part, of 400, of a stack that is read soon: memory takes longer than the cutting.
void fetch(const uint8_t* stack, int part) { _mm_prefetch(stack + part * STACK / 400, _MM_HINT_T1); }

__m512 widened(const uint8_t* sixteen) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)sixteen)));
}

// Cuts a stack (4, 84, 84) into an image (441, 64): 4×4 patches, whole numbers.
const bf16* cut(const uint8_t* stack) {
    bf16* image = scratch().image.data();
    alignas(64) uint8_t patches[4][4][64];  // [frame][column % 4][column / 4, 4×4 pixels], of sixteen columns
    for (int line = 0; line < IMAGE; line++) {
        for (int first = 0; first < IMAGE; first += 16) {
            const int columns = std::min(16, IMAGE - first);
            for (int frame = 0; frame < 4; frame++) {
                __m512i lines[4], halves[4];
                for (int y = 0; y < 4; y++) {
                    lines[y] = _mm512_maskz_loadu_epi32((1 << columns) - 1,
                                                        stack + (frame * 84 + line * 4 + y) * 84 + first * 4);
                }
                for (int y = 0; y < 4; y += 2) {
                    halves[y] = _mm512_unpacklo_epi32(lines[y], lines[y + 1]);
                    halves[y + 1] = _mm512_unpackhi_epi32(lines[y], lines[y + 1]);
                }
                for (int half = 0; half < 2; half++) {
                    _mm512_store_si512(patches[frame][2 * half], _mm512_unpacklo_epi64(halves[half], halves[half + 2]));
                    _mm512_store_si512(patches[frame][2 * half + 1],
                                       _mm512_unpackhi_epi64(halves[half], halves[half + 2]));
                }
            }
            for (int column = 0; column < columns; column++, image += IMAGE_CHANNELS) {
                for (int frame = 0; frame < 4; frame += 2) {
                    const int at = column / 4 * 16;
                    _mm512_storeu_si512(image + frame * 16, narrow(widened(patches[frame][column % 4] + at),
                                                                   widened(patches[frame + 1][column % 4] + at)));
                }
            }
        }
    }
    return scratch().image.data();
}

// The same, transposed: (64, 480), of which 441 positions count.
const bf16* cut_transposed(const uint8_t* stack) {
    bf16* image_t = scratch().image_t.data();
    // A line's 84 words lie in three registers, the last of which has 52 to 83. For each of four columns of a patch:
    // which words of the first two, and then which of those and of the last.
    __m512i every_fourth[4], and_the_last[4];
    for (int x = 0; x < 4; x++) {
        alignas(64) uint16_t places[2][32];
        for (int column = 0; column < 32; column++) {
            places[0][column] = (4 * column + x) % 64;
            places[1][column] = column < 16 ? column : (4 * column + x - 20) % 64;
        }
        every_fourth[x] = _mm512_load_si512(places[0]);
        and_the_last[x] = _mm512_load_si512(places[1]);
    }
    for (int line = 0; line < IMAGE; line++) {
        for (int row = 0; row < 16; row++) {  // of four frames and four lines each
            const uint8_t* pixels = stack + (row / 4 * 84 + line * 4 + row % 4) * 84;
            __m512i words[3];
            for (int i = 0; i < 3; i++) {
                const uint8_t* from = pixels + (i < 2 ? 32 * i : 84 - 32);
                words[i] = narrow(widened(from), widened(from + 16));
            }
            for (int x = 0; x < 4; x++) {
                const __m512i most = _mm512_permutex2var_epi16(words[0], every_fourth[x], words[1]);
                // What is written behind the line's end, the next line overwrites.
                _mm512_storeu_si512(image_t + (row * 4 + x) * 480 + line * IMAGE,
                                    _mm512_permutex2var_epi16(most, and_the_last[x], words[2]));
            }
        }
    }
    return image_t;
}

// From one sample's frames to its features, in the order of a (64, 7, 7) map; `kept` gets the maps on the way.
void see(const uint8_t* stack, const bf16* packed, const float* bias1, const float* bias2, const float* bias3,
         bf16* kept, bf16* features) {
    const bf16* image = cut(stack);
    convolve<FINE>(FORWARD1, image, IMAGE_CHANNELS, packed + WEIGHTS1, FINE_CHANNELS, FINE, IMAGE,
                   [&](int line, int column, int, const float* sums) {
                       const int plane = line % 2 * 2 + column % 2, at = line / 2 * PLANE + column / 2;
                       fetch(stack + STACK, line * FINE + column);  // the next sample's
                       _mm512_storeu_si512(kept + (plane * PLANE_CELLS + at) * FINE_CHANNELS, rectified(sums, bias1));
                   });
    bf16* middle = kept + KEPT_MIDDLE;
    convolve<MIDDLE>(FORWARD2, kept, FINE_CHANNELS, packed + WEIGHTS2, CHANNELS, MIDDLE, PLANE,
                     [&](int line, int column, int channel, const float* sums) {
                         _mm512_storeu_si512(middle + (line * MIDDLE + column) * CHANNELS + channel,
                                             rectified(sums, bias2 + channel));
                     });
    alignas(64) bf16 coarse[COARSE_CELLS * CHANNELS];
    convolve<COARSE>(FORWARD3, middle, CHANNELS, packed + WEIGHTS3, CHANNELS, COARSE, MIDDLE,
                     [&](int line, int column, int channel, const float* sums) {
                         _mm512_storeu_si512(coarse + (line * COARSE + column) * CHANNELS + channel,
                                             rectified(sums, bias3 + channel));
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

// What `agents.updates.PreparedBatch` holds; `frames_t` is null unless the online network chooses the target's action.
struct Batch {
    const uint8_t *frames_tm1, *frames_t;
    const int64_t* a_tm1;
    const float *r_t, *discount_t, *q_t;
    int samples, actions;
};

struct Adam {
    float rate, root;  // with this step's corrections
    float backbone_rate, backbone_root;
    float clip_norm, beta1, beta2, epsilon;
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

// Adam (Kingma & Ba 2014, algorithm 1) in one pass over the memory: gradients scaled by `scale`, and a bf16 copy of the
// weights where `copy` is not null; then `count` is a multiple of 16.
void adam_step(const Adam& adam, float scale, const Parameter& p, int64_t at, const float* gradients, int64_t count,
               bf16* copy = nullptr) {
    float *weights = p.weight + at, *firsts = p.first + at, *seconds = p.second + at;
    const float rate = adam.rate, beta1 = adam.beta1, beta2 = adam.beta2, root = adam.root, epsilon = adam.epsilon;
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
                     int width, Sums& d_hidden, float* d_bias, bf16* d_units) {
    d_hidden.assign(width, 0);
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

// 32 columns of d_features, of 32 samples, from d of their units; 0 where the features were not above it.
void features_backward(Update& all, const bf16* packed, const bf16* kept, int first, int units, int feature) {
    Scratch& own = scratch();
    own.unit_pairs.resize(units * BLOCK);
    alignas(64) float sums[BLOCK * BLOCK];
    pair_up(packed + HIDDEN + feature, FEATURES, units, BLOCK, own.unit_pairs.data());
    block(sums, BLOCK, all.d_units.data() + first * units, units, own.unit_pairs.data(), 2 * BLOCK,
          Steps::along(units / BLOCK, BLOCK, BLOCK * BLOCK));
    for (int i = 0; i < BLOCK; i++) {
        _mm512_storeu_si512(all.d_features.data() + i * FEATURES + feature,
                            masked(sums + i * BLOCK, kept + i * KEPT + KEPT_FEATURES + feature));
    }
}

// Σ over all weights of a hidden layer, `width` units from `unit` on, of the squared gradient.
double hidden_square_sum(const Update& all, int rounded, int units, int unit, int width) {
    Scratch& own = scratch();
    own.unit_pairs.resize(units * BLOCK);
    const Steps along_features = Steps::along(FEATURES / BLOCK, BLOCK, BLOCK * BLOCK);
    const Steps along_units = Steps::along(width / BLOCK, BLOCK, BLOCK * BLOCK);
    const bf16 *features = all.kept.data() + KEPT_FEATURES, *d_units = all.d_units.data() + unit;
    alignas(64) float like[BLOCK * BLOCK], d_like[BLOCK * BLOCK];
    double total = 0;
    for (int j = 0; j < rounded; j += BLOCK) {
        turn_into_pairs(features + j * KEPT, KEPT, FEATURES, own.feature_pairs.data());
        turn_into_pairs(d_units + j * units, units, width, own.unit_pairs.data());
        for (int i = 0; i < rounded; i += BLOCK) {
            block(like, BLOCK, features + i * KEPT, KEPT, own.feature_pairs.data(), 2 * BLOCK, along_features);
            block(d_like, BLOCK, d_units + i * units, units, own.unit_pairs.data(), 2 * BLOCK, along_units);
            for (int at = 0; at < BLOCK * BLOCK; at++) total += double(like[at]) * d_like[at];
        }
    }
    return std::max(total, 0.0);
}

// From d_features of sample i, one of 32, back through its maps. What the weights of the second and third layer need
// is laid out for `layers_backward`; to the first layer's `sums1`, and to the biases', the sample's part is added.
void maps_backward(Update& all, int i, const uint8_t* stack, const bf16* packed, const bf16* kept,
                   float (*d_biases)[CHANNELS], float* sums1) {
    Scratch& own = scratch();
    const bf16 *fine = kept + i * KEPT, *middle = fine + KEPT_MIDDLE;
    bf16* rows = own.rows.data();

    for (int channel = 0; channel < CHANNELS; channel += BLOCK) {
        alignas(64) bf16 turned[64 * BLOCK];
        const bf16* from = all.d_features.data() + i * FEATURES + channel * COARSE_CELLS;
        transpose(from, COARSE_CELLS, BLOCK, turned, BLOCK, BLOCK);
        transpose(from + BLOCK, COARSE_CELLS, BLOCK, turned + BLOCK * BLOCK, BLOCK, COARSE_CELLS - BLOCK);
        for (int cell = 0; cell < COARSE_CELLS; cell++) {
            const int line = cell / COARSE, column = cell % COARSE;
            const __m512i d = _mm512_load_si512(turned + cell * BLOCK);
            add_row(d_biases[2] + channel, d);
            _mm512_storeu_si512(rows + (line * MIDDLE + column) * CHANNELS + channel, d);
            const int inside = (line + 2) * PADDED + column + 2;
            _mm512_storeu_si512(own.padded3.data() + inside * CHANNELS + channel, d);
        }
    }
    for (int line = 0; line < COARSE; line++) {  // junk columns; lines beyond are zeroed with them
        memset(rows + (line * MIDDLE + COARSE) * CHANNELS, 0, 2 * CHANNELS * sizeof(bf16));
    }
    memset(rows + COARSE * MIDDLE * CHANNELS, 0, CHANNELS * sizeof(bf16));
    pair_up(rows, CHANNELS, 64, CHANNELS, all.d_coarse.data() + i * 64 * CHANNELS);
    transpose_all(middle, MIDDLE_CELLS, CHANNELS, all.middle_t.data() + i * CHANNELS * 96, 96);

    convolve<MIDDLE>(BACKWARD3, own.padded3.data(), CHANNELS, packed + BACK3, CHANNELS, MIDDLE, PADDED,
                     [&](int line, int column, int channel, const float* d) {
                         const int inside = (line + 1) * PADDED + column + 1;
                         _mm512_storeu_si512(own.padded2.data() + inside * CHANNELS + channel,
                                             masked(d, middle + (line * MIDDLE + column) * CHANNELS + channel));
                     });
    for (int line = 0; line < MIDDLE; line++) {
        for (int column = 0; column < PLANE; column++) {  // the padded grid has a zero behind each line
            for (int channel = 0; channel < CHANNELS; channel += BLOCK) {
                const int inside = (line + 1) * PADDED + column + 1;
                const __m512i d = _mm512_loadu_si512(own.padded2.data() + inside * CHANNELS + channel);
                add_row(d_biases[1] + channel, d);
                _mm512_storeu_si512(rows + (line * PLANE + column) * CHANNELS + channel, d);
            }
        }
    }
    memset(rows + MIDDLE * PLANE * CHANNELS, 0, 6 * CHANNELS * sizeof(bf16));
    pair_up(rows, CHANNELS, 96, CHANNELS, all.d_middle.data() + i * 96 * CHANNELS);
    for (int plane = 0; plane < 4; plane++) {
        const bf16* map = fine + plane * PLANE_CELLS * FINE_CHANNELS;
        transpose_all(map, PLANE_CELLS, FINE_CHANNELS, all.fine_t.data() + (i * 4 + plane) * FINE_CHANNELS * 128, 128);
        convolve<PLANE>(BACKWARD2, own.padded2.data(), CHANNELS, packed + BACK2 + plane * 4 * CHANNELS * FINE_CHANNELS,
                        FINE_CHANNELS, PLANE, PADDED, [&](int line, int column, int, const float* d) {
                            const int at = (line * 2 + plane / 2) * IMAGE + column * 2 + plane % 2;
                            fetch(stack, plane * PLANE_CELLS + line * PLANE + column);
                            _mm512_storeu_si512(own.d_fine.data() + at * FINE_CHANNELS,
                                                masked(d, map + (line * PLANE + column) * FINE_CHANNELS));
                        });
    }
    for (int at = 0; at < FINE * IMAGE; at++) {
        add_row(d_biases[0], _mm512_loadu_si512(own.d_fine.data() + at * FINE_CHANNELS));
    }
    pair_up(own.d_fine.data(), FINE_CHANNELS, 448, FINE_CHANNELS, own.d_fine_pairs.data());
    const bf16* image_t = cut_transposed(stack);
    static const Steps along = Steps::along(14, BLOCK, BLOCK * FINE_CHANNELS);
    for (int tap = 0; tap < 4; tap++) {
        for (int channel = 0; channel < IMAGE_CHANNELS; channel += BLOCK) {
            block(sums1 + (tap * IMAGE_CHANNELS + channel) * FINE_CHANNELS, FINE_CHANNELS,
                  image_t + channel * 480 + tap / 2 * IMAGE + tap % 2, 480, own.d_fine_pairs.data(),
                  2 * FINE_CHANNELS, along, true);
        }
    }
}

// 32 lines of the sums that the gradients of the third layer's weights are (k < SUM3), and then of the second's: over
// all positions of up to 32 samples; added to where `add`.
void layers_backward(Update& all, int count, int k, bool add) {
    Steps steps;
    if (k < SUM3) {
        for (int i = 0; i < 2 * count; i++) steps.add(i / 2 * CHANNELS * 96 + i % 2 * BLOCK, i * BLOCK * CHANNELS);
        const int tap = k / CHANNELS, offset = tap / 3 * MIDDLE + tap % 3;
        for (int out = 0; out < CHANNELS; out += BLOCK) {
            block(all.sums3.data() + k * CHANNELS + out, CHANNELS, all.middle_t.data() + k % CHANNELS * 96 + offset, 96,
                  all.d_coarse.data() + 2 * out, 2 * CHANNELS, steps, add);
        }
    } else {
        for (int i = 0; i < 3 * count; i++) {
            steps.add(i / 3 * 4 * FINE_CHANNELS * 128 + i % 3 * BLOCK, i * BLOCK * CHANNELS);
        }
        const int step = (k - SUM3) / BLOCK, plane = step / 4, offset = step % 4 / 2 * PLANE + step % 2;
        for (int out = 0; out < CHANNELS; out += BLOCK) {
            block(all.sums2.data() + (k - SUM3) * CHANNELS + out, CHANNELS,
                  all.fine_t.data() + plane * FINE_CHANNELS * 128 + offset, 128, all.d_middle.data() + 2 * out,
                  2 * CHANNELS, steps, add);
        }
    }
}

// Frames (samples, 4, 84, 84) to the units of the hidden layers (samples, units), cut at 0. `kept` holds KEPT a sample
// for the way back, with room for samples rounded up to 32; or it is null.
void forward(bool shared, const uint8_t* frames, int samples, const bf16* packed, const float* bias1,
             const float* bias2, const float* bias3, const float* bias, int units, bf16* kept, float* hidden) {
    Scratch& own = scratch();
    static const Steps along = Steps::along(FEATURES / BLOCK, BLOCK, BLOCK * BLOCK);
    for (int first = 0; first < samples; first += BLOCK) {
        const int count = std::min(BLOCK, samples - first);
        bf16* features = kept ? kept + first * KEPT + KEPT_FEATURES : own.features.data();
        const int ld = kept ? KEPT : FEATURES;
        share(shared, GROUPS, [&](int group) {
            for (int i = group * GROUP; i < (group + 1) * GROUP; i++) {
                if (i < count) {
                    see(frames + (first + i) * STACK, packed, bias1, bias2, bias3,
                        kept ? kept + (first + i) * KEPT : scratch().maps.data(), features + i * ld);
                } else {
                    memset(features + i * ld, 0, FEATURES * sizeof(bf16));
                }
            }
        });
        turn_into_pairs(features, ld, FEATURES, own.feature_pairs.data());
        share(shared, units / BLOCK, [&](int item) {
            const int unit = item * BLOCK;
            alignas(64) float sums[BLOCK * BLOCK];
            block(sums, BLOCK, packed + HIDDEN + unit * FEATURES, FEATURES, own.feature_pairs.data(), 2 * BLOCK, along);
            for (int i = 0; i < count; i++) {
                for (int u = 0; u < BLOCK; u++) {
                    hidden[(first + i) * units + unit + u] = std::max(sums[u * BLOCK + i] + bias[unit + u], 0.0f);
                }
            }
        });
    }
}

const Layout* const LAYOUTS[3] = {&LAYOUT1, &LAYOUT2, &LAYOUT3};
constexpr float SCALES[3] = {1 / 255.0f, 1, 1};  // images are whole numbers, exact in bf16
constexpr int THERE[3] = {WEIGHTS1, WEIGHTS2, WEIGHTS3}, BACK[3] = {0, BACK2, BACK3};

// Lays one convolution's weights out for the passes.
void pack(int layer, const float* weight, bf16* packed) {
    gather(weight, LAYOUTS[layer]->forward, SCALES[layer], packed + THERE[layer]);
    if (layer > 0) gather(weight, LAYOUTS[layer]->back, 1, packed + BACK[layer]);
}

// One update of Q-learning (losses.py has it in torch, and its sources): forward passes, Huber loss, gradients,
// clipping, Adam. `parameters`: weight and bias of the three convolutions, of the hidden layers, of the output layers. `numbers`
// gets the mean loss, the mean absolute error, the mean value of the chosen actions and the gradient's norm before
// clipping. The gradients of the hidden layers' weights, nineteen twentieths of all, are never written down: they are
// products of the units' gradients d and the features x, and their norm follows from those alone, the sum of
// (x_i · x_j)(d_i · d_j) over all pairs of samples. A frozen backbone, the first six parameters, stays as it is: its
// gradients are not worked out, and count as 0. While `held`, weights and packed copy stay as they are: the update
// waits where it would change them.
void learn(bool shared, const Batch& batch, bf16* packed, Parameter* parameters, int hidden_layers, bool frozen,
           const Adam& adam, const std::atomic<bool>& held, float* numbers) {
    thread_local Update own;
    Update& all = own;  // what helpers see as well
    const int samples = batch.samples, actions = batch.actions;
    const int width = int(parameters[7].count), units = width * hidden_layers;
    const int rounded = (samples + BLOCK - 1) / BLOCK * BLOCK;
    Parameter* outputs = parameters + 6 + 2 * hidden_layers;
    Sums bias(units), hidden(samples * units), d_hidden, q_tm1(samples * actions);
    Sums selector(batch.q_t, batch.q_t + samples * actions);
    for (int u = 0; u < units; u++) bias[u] = parameters[7 + u / width * 2].weight[u % width];
    all.kept.resize(rounded * KEPT);
    const auto value = [&](const uint8_t* frames, bf16* kept, Sums& q) {
        forward(shared, frames, samples, packed, parameters[1].weight, parameters[3].weight, parameters[5].weight,
                bias.data(), units, kept, hidden.data());
        values(outputs, hidden_layers, width, actions, hidden.data(), samples, q.data());
    };
    if (batch.frames_t) value(batch.frames_t, nullptr, selector);  // double Q-learning
    value(batch.frames_tm1, all.kept.data(), q_tm1);

    const int first_learnt = frozen ? 6 : 0;
    for (int i = first_learnt; i < 6 + 4 * hidden_layers; i++) {
        if (parameters[i].gradient) memset(parameters[i].gradient, 0, parameters[i].count * sizeof(float));
    }
    all.d_units.assign(rounded * units, 0);
    std::fill(numbers, numbers + 4, 0.0f);
    for (int i = 0; i < samples; i++) {
        const float* best = std::max_element(&selector[i * actions], &selector[(i + 1) * actions]);
        const float target = batch.r_t[i] + batch.discount_t[i] * batch.q_t[best - selector.data()];
        const float chosen = q_tm1[i * actions + batch.a_tm1[i]], error = target - chosen, size = std::abs(error);
        numbers[0] += (size <= 1 ? 0.5f * error * error : size - 0.5f) / samples;
        numbers[1] += size / samples;
        numbers[2] += chosen / samples;
        const float d_chosen = (error < -1 ? 1.0f : error > 1 ? -1.0f : -error) / samples;
        for (int layer = 0; layer < hidden_layers; layer++) {
            output_backward(outputs + 2 * layer, layer == 0 ? actions : 1, layer == 0 ? int(batch.a_tm1[i]) : 0,
                            d_chosen, layer == 0 && hidden_layers == 2, &hidden[i * units + layer * width], width,
                            d_hidden, parameters[7 + 2 * layer].gradient, &all.d_units[i * units + layer * width]);
        }
    }

    all.sample_pairs.resize(rounded * FEATURES);
    all.d_units_t.resize(rounded * units);
    for (Sums& sums : all.sums1) sums.assign(SUM1 * FINE_CHANNELS, 0);
    memset(all.d_biases, 0, sizeof all.d_biases);
    for (int first = 0; first < samples; first += BLOCK) {
        const int count = std::min(BLOCK, samples - first);
        const bf16* kept = all.kept.data() + first * KEPT;
        for (int u = 0; u < units; u += BLOCK) {
            transpose(all.d_units.data() + first * units + u, units, BLOCK, all.d_units_t.data() + u * rounded + first,
                      rounded, BLOCK);
        }
        pair_up(kept + KEPT_FEATURES, KEPT, BLOCK, FEATURES, all.sample_pairs.data() + first * FEATURES);
        if (frozen) continue;
        share(shared, FEATURES / (7 * BLOCK), [&](int item) {
            for (int i = 7 * item; i < 7 * (item + 1); i++) {
                features_backward(all, packed, kept, first, units, i * BLOCK);
            }
        });
        share(shared, GROUPS, [&](int group) {
            for (int i = group * GROUP; i < std::min(count, (group + 1) * GROUP); i++) {
                maps_backward(all, i, batch.frames_tm1 + (first + i) * STACK, packed, kept,
                              all.d_biases[group], all.sums1[group].data());
            }
        });
        share(shared, (SUM3 + SUM2) / BLOCK,
              [&](int item) { layers_backward(all, count, item * BLOCK, first > 0); });
    }
    for (int group = 1; group < GROUPS; group++) {
        for (int i = 0; i < SUM1 * FINE_CHANNELS; i++) all.sums1[0][i] += all.sums1[group][i];
    }
    const float* sums[3] = {all.sums1[0].data(), all.sums2.data(), all.sums3.data()};
    share(shared, 3 + hidden_layers, [&](int item) {
        if (item < 3 && frozen) return;
        if (item < 3) {
            gather(sums[item], LAYOUTS[item]->from_sums, SCALES[item], parameters[2 * item].gradient);
            Parameter& bias = parameters[2 * item + 1];
            for (const auto& group : all.d_biases) {
                for (int c = 0; c < bias.count; c++) bias.gradient[c] += group[item][c];
            }
        } else {
            parameters[2 * item].square = hidden_square_sum(all, rounded, units, (item - 3) * width, width);
        }
    });

    double squares = 0;
    for (int i = first_learnt; i < 6 + 4 * hidden_layers; i++) {
        Parameter& p = parameters[i];
        if (p.gradient) p.square = square_sum(p.gradient, p.count);
        squares += p.square;
    }
    const float norm = numbers[3] = float(std::sqrt(squares));
    const float scale = adam.clip_norm > 0 && norm > adam.clip_norm ? adam.clip_norm / norm : 1.0f;
    for (Wait wait; held;) wait.pause();
    for (int i = 6; i < 6 + 4 * hidden_layers; i++) {
        const Parameter& p = parameters[i];
        if (p.gradient) adam_step(adam, scale, p, 0, p.gradient, p.count);
    }
    const Steps along = Steps::along(rounded / BLOCK, BLOCK, BLOCK * FEATURES);
    share(shared, units / BLOCK + (frozen ? 0 : 3), [&](int item) {
        if (item < units / BLOCK) {
            const int unit = item * BLOCK;
            float* d_weights = scratch().d_weights.data();
            for (int feature = 0; feature < FEATURES; feature += BLOCK) {
                block(d_weights + feature, FEATURES, all.d_units_t.data() + unit * rounded, rounded,
                      all.sample_pairs.data() + 2 * feature, 2 * FEATURES, along);
            }
            adam_step(adam, scale, parameters[6 + unit / width * 2], unit % width * FEATURES, d_weights,
                      BLOCK * FEATURES, packed + HIDDEN + unit * FEATURES);
        } else {
            const int layer = item - units / BLOCK;
            Adam backbone = adam;
            backbone.rate = adam.backbone_rate;
            backbone.root = adam.backbone_root;
            for (int i = 2 * layer; i < 2 * layer + 2; i++) {
                adam_step(backbone, scale, parameters[i], 0, parameters[i].gradient, parameters[i].count);
            }
            pack(layer, parameters[2 * layer].weight, packed);
        }
    });
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
// 3). The hidden layers' (units, 3136) follow as they are, from `saccade_packed_size(0)` on; whoever changes them
// copies them there.
void saccade_pack(const float* weight1, const float* weight2, const float* weight3, bf16* packed) {
    const float* weights[3] = {weight1, weight2, weight3};
    for (int layer = 0; layer < 3; layer++) pack(layer, weights[layer], packed);
}

// The network's passes up to the hidden layers' units, as in `forward` above.
void saccade_forward(const uint8_t* frames, int samples, const bf16* packed, const float* bias1, const float* bias2,
                     const float* bias3, const float* bias, int units, float* hidden) {
    Tiles tiles;
    forward(false, frames, samples, packed, bias1, bias2, bias3, bias, units, nullptr, hidden);
}

// `learn` with each of the batches, one after the other. `adam` and `numbers` have one and four for each.
void saccade_learn(const Batch* batches, int count, bf16* packed, Parameter* parameters, int hidden_layers, bool frozen,
                   const Adam* adam, const std::atomic<bool>* held, float* numbers) {
    const bool shared = !taken.exchange(true);  // a second one at the same time works alone
    if (shared) {
        rounding = _mm_getcsr();
        learning = true;  // helpers may come from here on
    }
    {
        Tiles tiles;
        for (int i = 0; i < count; i++) {
            learn(shared, batches[i], packed, parameters, hidden_layers, frozen, adam[i], *held, numbers + 4 * i);
        }
    }
    if (shared) {
        learning = false;
        taken = false;
    }
}

// Takes part in the update that is under way in another thread, or begins within a fraction of a millisecond, until it
// ends.
void saccade_help() {
    Wait wait;
    while (!learning) {
        if (wait.rounds == 10'000) return;
        wait.pause();
    }
    Tiles tiles;
    const unsigned before = _mm_getcsr();
    _mm_setcsr(rounding);
    while (learning) {
        if (shared_phase) {
            helpers++;
            if (Phase* phase = shared_phase) phase->work();
            helpers--;
        }
        wait.pause();
    }
    _mm_setcsr(before);
}
}
