// The arithmetic of an encoder for processors with AVX-512, on rows without padding: T tokens of all texts, one
// after the other, H values each, float32. Weights lie in panels: [columns/32][rows][32]. H, the inner width and
// every product's columns are multiples of 32. All functions may be called from several threads at once.
#ifndef EMBEDFLEET_KERNELS_H
#define EMBEDFLEET_KERNELS_H

#include <stddef.h>
#include <stdint.h>

// A dense layer x W + b.
typedef struct {
  const float *weight; // panels
  const float *bias;
} ef_linear;

// A layer normalisation.
typedef struct {
  const float *scale, *shift;
  float epsilon;
} ef_norm;

// Self-attention with its residual sum: y = norm(x + out(attention(in(x)))).
typedef struct {
  int64_t hidden, heads; // heads divides hidden
  ef_linear in;          // hidden to 3 hidden: query, key, value
  ef_linear out;         // hidden to hidden
  ef_norm norm;
} ef_attention;

// Attention alone, of queries, keys and values that were projected elsewhere. A head is so many values wide, any number.
typedef struct {
  int64_t heads, key_heads, width; // key_heads divides heads: as many queries' heads read one of the keys'
  int64_t window;                  // tokens further away are not seen; negative: all are
  int causal;                      // what is behind a token is not seen
  float scale;                     // of the scores
  // Cosines and sines by position in its text and pair of a head's halves: [tokens of the longest text][width/2].
  // Queries and keys are rotated by them. NULL: they are not.
  const float *cosine, *sine;
} ef_attend;

// A feed-forward layer with its residual sum: y = norm(x + down(activation(up(x)))).
typedef struct {
  int64_t hidden, inner;
  int relu; // 0: GELU by the error function
  ef_linear up, down;
  ef_norm norm;
} ef_feed_forward;

// Rows that are worked on together, so that what lies between two products stays in the second-level cache.
// Blocks are independent of each other.
typedef struct {
  int64_t row, rows;   // tokens
  int64_t text, texts; // texts; of attention only
} ef_block;

// ef_attention_blocks cuts texts of the given lengths into blocks on borders of texts; ef_feed_forward_blocks cuts
// any rows. They return how many blocks there are, at most one for each text or row, and write them.
int64_t ef_attention_blocks(const int64_t *lengths, int64_t texts, ef_block *blocks);
int64_t ef_feed_forward_blocks(const ef_feed_forward *op, int64_t rows, ef_block *blocks);

// The work on one block. x and y are those of all rows; lengths those of all texts. They return 0, or -1 if there
// is no memory for what lies between.
int ef_attention_run(const ef_attention *op, const float *x, float *y, const int64_t *lengths, const ef_block *b);
int ef_attend_run(const ef_attend *op, const float *q, const float *k, const float *v, float *y, const int64_t *lengths,
                  const ef_block *b);
int ef_feed_forward_run(const ef_feed_forward *op, const float *x, float *y, const ef_block *b);

// ef_trim frees the memory that is kept for the next call.
void ef_trim(void);

#endif
