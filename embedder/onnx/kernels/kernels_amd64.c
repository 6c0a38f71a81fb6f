#include "kernels.h"

#include <immintrin.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

// Only these functions are compiled for AVX-512: everything else in the binary must run anywhere.
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))
#define INLINE static inline __attribute__((always_inline)) AVX512

enum {
  LANES = 16,  // float32 in a register
  PANEL = 32,  // columns of a panel: two registers
  TILE = 14,   // rows of a tile: 28 of 32 registers are sums, two hold a panel's row
  BLOCK = 168, // rows of a block, at most, apart from longer texts
  // A block's widest intermediate is to stay in the second-level cache, which has 1 to 2 MB on these processors.
  BLOCK_BYTES = 2 << 20,
};

// --- memory ---------------------------------------------------------------------------------------------------

// Scratch memory is kept for the next call: asking the system for megabytes costs it a page fault for every 4 kB.
// As many pieces are kept as there were calls at once.
enum { PIECES = 64 };
static struct {
  pthread_mutex_t lock;
  int count;
  struct {
    void *at;
    size_t size;
  } pieces[PIECES];
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void *take(size_t size, size_t *got) {
  void *at = NULL, *small = NULL;
  pthread_mutex_lock(&pool.lock);
  if (pool.count > 0) {
    pool.count--;
    if (pool.pieces[pool.count].size >= size) {
      at = pool.pieces[pool.count].at;
      *got = pool.pieces[pool.count].size;
    } else {
      small = pool.pieces[pool.count].at;
    }
  }
  pthread_mutex_unlock(&pool.lock);
  free(small);
  if (at == NULL) {
    *got = (size + 4095) & ~(size_t)4095;
    at = aligned_alloc(4096, *got);
  }
  return at;
}

static void give(void *at, size_t size) {
  pthread_mutex_lock(&pool.lock);
  if (pool.count < PIECES) {
    pool.pieces[pool.count].at = at;
    pool.pieces[pool.count].size = size;
    pool.count++;
    at = NULL;
  }
  pthread_mutex_unlock(&pool.lock);
  free(at);
}

void ef_trim(void) {
  pthread_mutex_lock(&pool.lock);
  while (pool.count > 0) {
    free(pool.pieces[--pool.count].at);
  }
  pthread_mutex_unlock(&pool.lock);
}

// --- functions ------------------------------------------------------------------------------------------------

// pow2 is 2 to the power of t <= 0: to its whole part, times a polynomial (relative error 8e-8) of the rest in
// [-0.5, 0.5].
INLINE __m512 pow2(__m512 t) {
  __m512 n = _mm512_roundscale_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 f = _mm512_sub_ps(t, n);
  __m512 p = _mm512_set1_ps(0.001327647129073739f);
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.009675541892647743f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.05550713092088699f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.24022120237350464f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.6931469440460205f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0000001192092896f));
  return _mm512_scalef_ps(p, n);
}

static const float LOG2E = 1.44269504f;

// gelu(x) = x/2 (1 + erf(x/sqrt 2)) = max(x, 0) - |x|/2 erfc(|x|/sqrt 2), which is exact to rounding on both sides
// of 0. erfc is 2 to the power of a Q(a), with a = |x| and Q a polynomial fitted on [0, 5.9] so that gelu's error is
// below 4e-8. Beyond, a stays 5.9, and what is subtracted is under 2e-8.
INLINE __m512 gelu(__m512 x) {
  __m512 a = _mm512_min_ps(_mm512_set1_ps(5.9f), _mm512_abs_ps(x));
  __m512 q = _mm512_set1_ps(4.278741926100338e-06f);
  q = _mm512_fmadd_ps(q, a, _mm512_set1_ps(-1.2798199350072537e-05f));
  q = _mm512_fmadd_ps(q, a, _mm512_set1_ps(-0.0005757862236350775f));
  q = _mm512_fmadd_ps(q, a, _mm512_set1_ps(0.0076707834377884865f));
  q = _mm512_fmadd_ps(q, a, _mm512_set1_ps(-0.052948564291000366f));
  q = _mm512_fmadd_ps(q, a, _mm512_set1_ps(-0.4590439200401306f));
  q = _mm512_fmadd_ps(q, a, _mm512_set1_ps(-1.1511269807815552f));
  __m512 e = pow2(_mm512_mul_ps(a, q));
  // NaN stays NaN: min and max return their second operand then.
  return _mm512_fnmadd_ps(_mm512_mul_ps(a, _mm512_set1_ps(0.5f)), e, _mm512_max_ps(_mm512_setzero_ps(), x));
}

// --- products -------------------------------------------------------------------------------------------------

// What is done with the sums of a tile before they are stored.
typedef enum { PLAIN, BIAS, BIAS_GELU, BIAS_RELU, BIAS_ADD, SCALE } epilogue;

typedef struct {
  const float *a; // rows x k, lda apart
  int64_t lda, k;
  const float *b; // k rows of 32 columns, ldb apart
  int64_t ldb;
  const float *next; // k lines of 16 values that will be wanted soon
  float *c; // rows x 32, ldc apart
  int64_t ldc;
  const float *v; // BIAS: one value for each column; SCALE: one for each row
  const float *r; // BIAS_ADD: rows x 32, ldr apart
  int64_t ldr;
} product;

// One tile of a product: the sums stay in registers from the first to the last step along k.
INLINE void tile(const int rows, const epilogue how, const product *p) {
  __m512 sum[TILE][2];
#pragma GCC unroll 14
  for (int i = 0; i < rows; i++) {
    sum[i][0] = sum[i][1] = _mm512_setzero_ps();
  }
  const float *a = p->a, *b = p->b;
  const int64_t lda = p->lda, ldb = p->ldb;
  const float *next = p->next;
#pragma GCC unroll 4
  for (int64_t k = p->k; k > 0; k--) {
    _mm_prefetch((const char *)next, _MM_HINT_T1);
    next += LANES;
    __m512 b0 = _mm512_loadu_ps(b), b1 = _mm512_loadu_ps(b + LANES);
#pragma GCC unroll 14
    for (int i = 0; i < rows; i++) {
      __m512 x = _mm512_set1_ps(a[i * lda]);
      sum[i][0] = _mm512_fmadd_ps(x, b0, sum[i][0]);
      sum[i][1] = _mm512_fmadd_ps(x, b1, sum[i][1]);
    }
    a++;
    b += ldb;
  }
  __m512 v0 = _mm512_setzero_ps(), v1 = v0;
  if (how == BIAS || how == BIAS_GELU || how == BIAS_RELU || how == BIAS_ADD) {
    v0 = _mm512_loadu_ps(p->v), v1 = _mm512_loadu_ps(p->v + LANES);
  }
#pragma GCC unroll 14
  for (int i = 0; i < rows; i++) {
    __m512 c0 = sum[i][0], c1 = sum[i][1];
    if (how == SCALE) {
      __m512 s = _mm512_set1_ps(p->v[i]);
      c0 = _mm512_mul_ps(c0, s), c1 = _mm512_mul_ps(c1, s);
    } else if (how != PLAIN) {
      c0 = _mm512_add_ps(c0, v0), c1 = _mm512_add_ps(c1, v1);
    }
    if (how == BIAS_GELU) {
      c0 = gelu(c0), c1 = gelu(c1);
    } else if (how == BIAS_RELU) {
      c0 = _mm512_max_ps(_mm512_setzero_ps(), c0), c1 = _mm512_max_ps(_mm512_setzero_ps(), c1);
    } else if (how == BIAS_ADD) {
      c0 = _mm512_add_ps(c0, _mm512_loadu_ps(p->r + i * p->ldr));
      c1 = _mm512_add_ps(c1, _mm512_loadu_ps(p->r + i * p->ldr + LANES));
    }
    _mm512_storeu_ps(p->c + i * p->ldc, c0);
    _mm512_storeu_ps(p->c + i * p->ldc + LANES, c1);
  }
}

// One function for each number of rows: the compiler must know it to keep the sums in registers.
#define TILES(name, how)                                                                                              \
  AVX512 static void name(int rows, const product *p) {                                                               \
    switch (rows) {                                                                                                   \
    case 1: tile(1, how, p); break;                                                                                   \
    case 2: tile(2, how, p); break;                                                                                   \
    case 3: tile(3, how, p); break;                                                                                   \
    case 4: tile(4, how, p); break;                                                                                   \
    case 5: tile(5, how, p); break;                                                                                   \
    case 6: tile(6, how, p); break;                                                                                   \
    case 7: tile(7, how, p); break;                                                                                   \
    case 8: tile(8, how, p); break;                                                                                   \
    case 9: tile(9, how, p); break;                                                                                   \
    case 10: tile(10, how, p); break;                                                                                 \
    case 11: tile(11, how, p); break;                                                                                 \
    case 12: tile(12, how, p); break;                                                                                 \
    case 13: tile(13, how, p); break;                                                                                 \
    default: tile(14, how, p);                                                                                        \
    }                                                                                                                 \
  }
TILES(tile_plain, PLAIN)
TILES(tile_bias, BIAS)
TILES(tile_bias_gelu, BIAS_GELU)
TILES(tile_bias_relu, BIAS_RELU)
TILES(tile_bias_add, BIAS_ADD)
TILES(tile_scale, SCALE)

// rows_of cuts rows into tiles of about the same height and returns the height of the next.
static int rows_of(int64_t left) {
  int64_t tiles = (left + TILE - 1) / TILE;
  return (int)((left + tiles - 1) / tiles);
}

// dense computes c = a W + b of rows x k by a dense layer of so many columns, with an epilogue; r is what BIAS_ADD
// adds. Panel by panel: a panel stays in the first two caches while all rows pass, and the first tiles fetch the next
// one. Without that the products were a tenth slower: weights come from the third cache, once a block.
AVX512 static void dense(void (*tiles)(int, const product *), const float *a, int64_t rows, int64_t k, const ef_linear *l,
                         int64_t columns, float *c, const float *r) {
  for (int64_t j = 0; j < columns; j += PANEL) {
    const float *b = l->weight + j * k, *end = b + k * PANEL;
    product p = {.lda = k, .k = k, .b = b, .ldb = PANEL, .next = b, .ldc = columns, .v = l->bias + j, .ldr = columns};
    if (j + PANEL < columns) {
      p.next = end, end += k * PANEL;
    }
    for (int64_t i = 0; i < rows;) {
      int n = rows_of(rows - i);
      p.a = a + i * k;
      p.c = c + i * columns + j;
      if (r != NULL) {
        p.r = r + i * columns + j;
      }
      tiles(n, &p);
      if (p.next + k * LANES < end) {
        p.next += k * LANES;
      }
      i += n;
    }
  }
}

// --- rows -----------------------------------------------------------------------------------------------------

// normalise does a layer normalisation of rows of so many values, in place.
AVX512 static void normalise(const ef_norm *n, float *y, int64_t rows, int64_t width) {
  for (int64_t i = 0; i < rows; i++, y += width) {
    __m512 sum = _mm512_setzero_ps(), square = sum;
    for (int64_t j = 0; j < width; j += LANES) {
      sum = _mm512_add_ps(sum, _mm512_loadu_ps(y + j));
    }
    __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / (float)width);
    for (int64_t j = 0; j < width; j += LANES) {
      __m512 d = _mm512_sub_ps(_mm512_loadu_ps(y + j), mean);
      square = _mm512_fmadd_ps(d, d, square);
    }
    __m512 by = _mm512_set1_ps(1.0f / sqrtf(_mm512_reduce_add_ps(square) / (float)width + n->epsilon));
    for (int64_t j = 0; j < width; j += LANES) {
      __m512 d = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(y + j), mean), by);
      _mm512_storeu_ps(y + j, _mm512_fmadd_ps(d, _mm512_loadu_ps(n->scale + j), _mm512_loadu_ps(n->shift + j)));
    }
  }
}

// soften turns n scores, at least one, into 2^(scale (score - largest)) and returns their sum.
AVX512 static float soften(float *s, int64_t n, float scale) {
  __m512 top = _mm512_set1_ps(-INFINITY), sum = _mm512_setzero_ps();
  __mmask16 last = (__mmask16)(0xffff >> ((LANES - n % LANES) % LANES));
  int64_t whole = (n - 1) / LANES * LANES; // the last register, perhaps of fewer, begins here
  for (int64_t j = 0; j < whole; j += LANES) {
    top = _mm512_max_ps(top, _mm512_loadu_ps(s + j));
  }
  top = _mm512_mask_max_ps(top, last, top, _mm512_loadu_ps(s + whole));
  top = _mm512_set1_ps(_mm512_reduce_max_ps(top));
  __m512 by = _mm512_set1_ps(scale);
  for (int64_t j = 0; j < whole; j += LANES) {
    __m512 e = pow2(_mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(s + j), top), by));
    sum = _mm512_add_ps(sum, e);
    _mm512_storeu_ps(s + j, e);
  }
  __m512 e = _mm512_maskz_mov_ps(last, pow2(_mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(s + whole), top), by)));
  _mm512_mask_storeu_ps(s + whole, last, e); // behind them may be another row's scores
  return _mm512_reduce_add_ps(_mm512_add_ps(sum, e));
}

// turn writes the transposed form of up to 16 rows and columns of a matrix as lines of a panel; rows that are not there
// are 0.
AVX512 static void turn(const float *a, int64_t lda, int64_t rows, int64_t columns, float *to) {
  __m512 r[LANES], s[LANES];
  __mmask16 some = columns < LANES ? (__mmask16)((1 << columns) - 1) : (__mmask16)0xffff;
#pragma GCC unroll 16
  for (int i = 0; i < LANES; i++) {
    r[i] = i < rows ? _mm512_maskz_loadu_ps(some, a + i * lda) : _mm512_setzero_ps();
  }
  // Pairs of rows, then fours, within each quarter of the registers; then the quarters change places.
#pragma GCC unroll 8
  for (int i = 0; i < LANES; i += 2) {
    s[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
    s[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < LANES; i += 4) {
#pragma GCC unroll 2
    for (int j = 0; j < 2; j++) {
      __m512d x = _mm512_castps_pd(s[i + j]), y = _mm512_castps_pd(s[i + j + 2]);
      r[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(x, y));
      r[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(x, y));
    }
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; j++) { // column j of each quarter
    __m512 a0 = _mm512_shuffle_f32x4(r[j], r[j + 4], 0x88), a1 = _mm512_shuffle_f32x4(r[j + 8], r[j + 12], 0x88);
    __m512 b0 = _mm512_shuffle_f32x4(r[j], r[j + 4], 0xdd), b1 = _mm512_shuffle_f32x4(r[j + 8], r[j + 12], 0xdd);
    s[j] = _mm512_shuffle_f32x4(a0, a1, 0x88);
    s[j + 4] = _mm512_shuffle_f32x4(b0, b1, 0x88);
    s[j + 8] = _mm512_shuffle_f32x4(a0, a1, 0xdd);
    s[j + 12] = _mm512_shuffle_f32x4(b0, b1, 0xdd);
  }
#pragma GCC unroll 16
  for (int j = 0; j < LANES; j++) {
    if (j < columns) {
      _mm512_storeu_ps(to + j * PANEL, s[j]);
    }
  }
}

static int64_t panels(int64_t n) { return (n + PANEL - 1) / PANEL; }

// --- attention ------------------------------------------------------------------------------------------------

// What lies between the products of one text's attention.
typedef struct {
  float *key;    // one head's keys, transposed, in panels of 32 tokens: [panels][width][32]
  float *value;  // one head's values in panels of 32 dimensions: [panels][tokens][32]
  float *scores; // of a tile's queries: [TILE][panels of tokens * 32]
  float *sums;   // 1/sum of each of a tile's rows: [TILE]
  float *wide;   // a tile's result in whole panels: [TILE][32]
} between;

// One head of one text of n tokens. q, k and v are the text's first rows of width values, ldq and ldk apart; the result
// goes to y, rows ldy apart.
typedef struct {
  const float *q, *k, *v;
  int64_t ldq, ldk, n, width;
  float *y;
  int64_t ldy;
  float scale;    // of the scores, times log2(e)
  int64_t window; // negative: all tokens are seen
  int causal;
  const float *values; // what load makes of v: panels of 32 dimensions, rows ldv apart, panels step apart
  int64_t ldv, step;
} one_head;

// load brings keys and values into panels.
AVX512 static void load(one_head *h, const between *m) {
  int64_t wide = panels(h->n) * PANEL, width = h->width;
  for (int64_t t = 0; t < wide; t += LANES) { // tokens
    float *to = m->key + t / PANEL * width * PANEL + t % PANEL;
    for (int64_t d = 0; d < width; d += LANES) {
      turn(h->k + t * h->ldk + d, h->ldk, h->n - t, width - d, to + d * PANEL);
    }
  }
  h->values = h->v, h->ldv = h->ldk, h->step = PANEL;
  if (width % PANEL != 0) {
    memset(m->value, 0, sizeof(float) * (size_t)(panels(width) * h->n * PANEL));
    for (int64_t t = 0; t < h->n; t++) {
      for (int64_t d = 0; d < width; d++) {
        m->value[(d / PANEL * h->n + t) * PANEL + d % PANEL] = h->v[t * h->ldk + d];
      }
    }
    h->values = m->value, h->ldv = PANEL, h->step = h->n * PANEL;
  }
}

// seen are the tokens, from the first to before the end, that token i sees.
typedef struct {
  int64_t first, end;
} seen;

static seen sees(const one_head *h, int64_t i) {
  seen s = {0, h->n};
  if (h->window >= 0) {
    s.first = i > h->window ? i - h->window : 0;
    s.end = i + h->window + 1 < h->n ? i + h->window + 1 : h->n;
  }
  if (h->causal) {
    s.end = i + 1;
  }
  return s;
}

// attend computes the head: a tile of queries at a time, with the panels of keys that any of them sees.
AVX512 static void attend(const one_head *h, const between *m) {
  int64_t width = h->width, wide = panels(h->n) * PANEL;
  for (int64_t i = 0; i < h->n;) {
    int rows = rows_of(h->n - i);
    int64_t first = sees(h, i).first / PANEL * PANEL, end = sees(h, i + rows - 1).end;
    product p = {.a = h->q + i * h->ldq, .lda = h->ldq, .k = width, .ldb = PANEL, .next = m->key, .ldc = wide};
    for (int64_t j = first; j < end; j += PANEL) {
      p.b = m->key + j * width;
      p.c = m->scores + j - first;
      tile_plain(rows, &p);
    }
    for (int r = 0; r < rows; r++) {
      seen s = sees(h, i + r);
      float *scores = m->scores + r * wide;
      m->sums[r] = 1.0f / soften(scores + s.first - first, s.end - s.first, h->scale);
      // What others of the tile see and this one does not weighs nothing.
      memset(scores, 0, sizeof(float) * (size_t)(s.first - first));
      memset(scores + s.end - first, 0, sizeof(float) * (size_t)(end - s.end));
    }
    p = (product){.a = m->scores, .lda = wide, .k = end - first, .ldb = h->ldv, .next = m->scores, .v = m->sums};
    for (int64_t d = 0; d < width; d += PANEL) {
      p.b = h->values + d / PANEL * h->step + first * h->ldv;
      if (width - d >= PANEL) {
        p.c = h->y + i * h->ldy + d, p.ldc = h->ldy;
        tile_scale(rows, &p);
        continue;
      }
      p.c = m->wide, p.ldc = PANEL;
      tile_scale(rows, &p);
      for (int r = 0; r < rows; r++) {
        memcpy(h->y + (i + r) * h->ldy + d, m->wide + r * PANEL, sizeof(float) * (size_t)(width - d));
      }
    }
    i += rows;
  }
}

// rotate writes n rows of heads, ld apart, to y, each head's halves turned by the angles of the row's place.
AVX512 static void rotate(const ef_attend *op, const float *x, int64_t n, int64_t heads, float *y) {
  int64_t half = op->width / 2, ld = heads * op->width;
  for (int64_t i = 0; i < n; i++) {
    const float *c = op->cosine + i * half, *s = op->sine + i * half;
    for (int64_t h = 0; h < heads; h++) {
      const float *from = x + i * ld + h * op->width;
      float *to = y + i * ld + h * op->width;
      for (int64_t d = 0; d < half; d++) {
        float a = from[d], b = from[d + half];
        to[d] = a * c[d] - b * s[d];
        to[d + half] = b * c[d] + a * s[d];
      }
    }
  }
}

int64_t ef_attention_blocks(const int64_t *lengths, int64_t texts, ef_block *blocks) {
  int64_t count = 0, row = 0;
  for (int64_t t = 0; t < texts; row += lengths[t], t++) {
    if (count > 0 && blocks[count - 1].rows + lengths[t] <= BLOCK) {
      blocks[count - 1].rows += lengths[t];
      blocks[count - 1].texts++;
    } else {
      blocks[count++] = (ef_block){.row = row, .rows = lengths[t], .text = t, .texts = 1};
    }
  }
  return count;
}

int ef_attention_run(const ef_attention *op, const float *x, float *y, const int64_t *lengths, const ef_block *b) {
  int64_t h = op->hidden, width = h / op->heads, longest = 0;
  for (int64_t t = 0; t < b->texts; t++) {
    longest = lengths[b->text + t] > longest ? lengths[b->text + t] : longest;
  }
  int64_t tokens = panels(longest) * PANEL;
  // Every part is a multiple of 64 bytes, as its first place is.
  int64_t all = b->rows * 3 * h, result = b->rows * h, key = tokens * width, value = panels(width) * PANEL * tokens,
          scores = TILE * tokens;
  size_t size;
  float *at = take(sizeof(float) * (size_t)(all + result + key + value + scores + LANES + TILE * PANEL), &size);
  if (at == NULL) {
    return -1;
  }
  float *qkv = at, *heads = qkv + all;
  between m = {.key = heads + result};
  m.value = m.key + key, m.scores = m.value + value, m.sums = m.scores + scores, m.wide = m.sums + LANES;

  dense(tile_bias, x + b->row * h, b->rows, h, &op->in, 3 * h, qkv, NULL);
  int64_t row = 0;
  for (int64_t t = 0; t < b->texts; t++) {
    int64_t n = lengths[b->text + t];
    for (int64_t i = 0; i < op->heads; i++) {
      const float *q = qkv + row * 3 * h + i * width;
      one_head one = {.q = q, .k = q + h, .v = q + 2 * h, .ldq = 3 * h, .ldk = 3 * h, .n = n, .width = width,
                      .y = heads + row * h + i * width, .ldy = h, .scale = LOG2E / sqrtf((float)width), .window = -1};
      load(&one, &m);
      attend(&one, &m);
    }
    row += n;
  }
  dense(tile_bias_add, heads, b->rows, h, &op->out, h, y + b->row * h, x + b->row * h);
  normalise(&op->norm, y + b->row * h, b->rows, h);
  give(at, size);
  return 0;
}

// around keeps what follows it in memory on a multiple of 64 bytes.
static int64_t around(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

int ef_attend_run(const ef_attend *op, const float *q, const float *k, const float *v, float *y, const int64_t *lengths,
                  const ef_block *b) {
  int64_t width = op->width, ldq = op->heads * width, ldk = op->key_heads * width, longest = 0;
  for (int64_t t = 0; t < b->texts; t++) {
    longest = lengths[b->text + t] > longest ? lengths[b->text + t] : longest;
  }
  int64_t tokens = panels(longest) * PANEL, key = tokens * width, value = panels(width) * PANEL * tokens,
          scores = TILE * tokens, turned = op->cosine == NULL ? 0 : around(longest * (ldq + ldk));
  size_t size;
  float *at = take(sizeof(float) * (size_t)(key + value + scores + LANES + TILE * PANEL + turned), &size);
  if (at == NULL) {
    return -1;
  }
  between m = {.key = at};
  m.value = m.key + key, m.scores = m.value + value, m.sums = m.scores + scores, m.wide = m.sums + LANES;
  float *rotated = m.wide + TILE * PANEL;
  int64_t row = b->row;
  for (int64_t t = 0; t < b->texts; t++) {
    int64_t n = lengths[b->text + t], group = op->heads / op->key_heads;
    const float *qs = q + row * ldq, *ks = k + row * ldk;
    if (op->cosine != NULL) {
      rotate(op, qs, n, op->heads, rotated);
      rotate(op, ks, n, op->key_heads, rotated + n * ldq);
      qs = rotated, ks = rotated + n * ldq;
    }
    for (int64_t i = 0; i < op->heads && n > 0; i++) {
      int64_t of = i / group * width;
      one_head one = {.q = qs + i * width, .k = ks + of, .v = v + row * ldk + of, .ldq = ldq, .ldk = ldk, .n = n, .width = width,
                      .y = y + row * ldq + i * width, .ldy = ldq, .scale = LOG2E * op->scale, .window = op->window, .causal = op->causal};
      load(&one, &m); // also for the other queries of a group: it is little beside what follows
      attend(&one, &m);
    }
    row += n;
  }
  give(at, size);
  return 0;
}

// --- feed-forward ---------------------------------------------------------------------------------------------

int64_t ef_feed_forward_blocks(const ef_feed_forward *op, int64_t rows, ef_block *blocks) {
  int64_t most = BLOCK_BYTES / (int64_t)sizeof(float) / op->inner / TILE * TILE;
  most = most > BLOCK ? BLOCK : most < 4 * TILE ? 4 * TILE : most;
  int64_t count = (rows + most - 1) / most, row = 0;
  for (int64_t i = 0; i < count; i++) {
    int64_t n = (rows - row + count - i - 1) / (count - i);
    blocks[i] = (ef_block){.row = row, .rows = n};
    row += n;
  }
  return count;
}

int ef_feed_forward_run(const ef_feed_forward *op, const float *x, float *y, const ef_block *b) {
  int64_t h = op->hidden;
  size_t size;
  float *up = take(sizeof(float) * (size_t)(b->rows * op->inner), &size);
  if (up == NULL) {
    return -1;
  }
  dense(op->relu ? tile_bias_relu : tile_bias_gelu, x + b->row * h, b->rows, h, &op->up, op->inner, up, NULL);
  dense(tile_bias_add, up, b->rows, op->inner, &op->down, h, y + b->row * h, x + b->row * h);
  normalise(&op->norm, y + b->row * h, b->rows, h);
  give(up, size);
  return 0;
}
