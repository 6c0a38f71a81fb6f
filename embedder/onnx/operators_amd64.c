//go:build unix

#include "operators.h"

#include <dlfcn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

// --- the runtime's C interface, as far as it is used ---------------------------------------------------------
//
// Declared after onnxruntime_c_api.h of ONNX Runtime 1.24 (API version 24), whose table of functions only ever
// grows at its end, so that a function's place in it is part of the interface.

typedef struct status status;
typedef struct value value;
typedef struct tensor_info tensor_info;
typedef struct kernel_info kernel_info;
typedef struct context context;
typedef struct domain domain;

enum { API_VERSION = 24 };
enum { FAIL = 1, INVALID_ARGUMENT = 2 }; // OrtErrorCode
enum { FLOAT = 1, INT64 = 7 };           // ONNXTensorElementDataType

typedef struct {
  const void *(*get_api)(uint32_t version);
  const char *(*get_version)(void);
} api_base;

// Places in OrtApi.
enum {
  CREATE_STATUS = 0,
  GET_ERROR_MESSAGE = 2,
  CREATE_DOMAIN = 26,
  DOMAIN_ADD = 27,
  ADD_DOMAIN = 28,
  TENSOR_DATA = 51,
  DIMENSIONS_COUNT = 61,
  DIMENSIONS = 62,
  TENSOR_INFO = 65,
  ATTRIBUTE_FLOAT = 85,
  ATTRIBUTE_INT64 = 86,
  GET_INPUT = 90,
  GET_OUTPUT = 91,
  RELEASE_STATUS = 93,
  RELEASE_TENSOR_INFO = 99,
  PARALLEL_FOR = 274,
};
#define CALL(place, type) ((type)api[place])

// OrtCustomOp.
typedef struct operator_ {
  uint32_t version;
  void *(*create)(const struct operator_ *, const void *, const kernel_info *);
  const char *(*name)(const struct operator_ *);
  const char *(*provider)(const struct operator_ *);
  int (*input_type)(const struct operator_ *, size_t);
  size_t (*input_count)(const struct operator_ *);
  int (*output_type)(const struct operator_ *, size_t);
  size_t (*output_count)(const struct operator_ *);
  void (*compute)(void *, context *);
  void (*destroy)(void *);
  int (*input_characteristic)(const struct operator_ *, size_t);
  int (*output_characteristic)(const struct operator_ *, size_t);
  int (*input_memory)(const struct operator_ *, size_t);
  int (*least_inputs)(const struct operator_ *);
  int (*alike_inputs)(const struct operator_ *);
  int (*least_outputs)(const struct operator_ *);
  int (*alike_outputs)(const struct operator_ *);
  status *(*create_v2)(const struct operator_ *, const void *, const kernel_info *, void **);
  status *(*compute_v2)(void *, context *);
  status *(*infer_shapes)(const struct operator_ *, void *);
  int (*start_version)(const struct operator_ *);
  int (*end_version)(const struct operator_ *);
  size_t (*in_place)(int **, int **);
  void (*release_in_place)(int *, int *);
  size_t (*aliases)(int **, int **);
  void (*release_aliases)(int *, int *);

  // Ours, behind what the runtime reads.
  const char *called;
  const char *inputs, *outputs; // a letter for each: f or i
} operator_;

// Set once, before the first session is made, and the same for all.
static const void *const *api;

static status *refuse(int code, const char *what) { return CALL(CREATE_STATUS, status * (*)(int, const char *))(code, what); }

// --- tensors --------------------------------------------------------------------------------------------------

enum { DIMS = 3 };

typedef struct {
  void *data;
  int64_t dim[DIMS]; // those beyond rank are 1
  size_t rank;
} tensor;

static int64_t count(const tensor *t) { return t->dim[0] * t->dim[1] * t->dim[2]; }

static status *describe(const value *v, tensor *t) {
  tensor_info *info = NULL;
  status *s = CALL(TENSOR_INFO, status * (*)(const value *, tensor_info **))(v, &info);
  if (s != NULL) {
    return s;
  }
  t->dim[0] = t->dim[1] = t->dim[2] = 1;
  s = CALL(DIMENSIONS_COUNT, status * (*)(const tensor_info *, size_t *))(info, &t->rank);
  if (s == NULL && t->rank > DIMS) {
    s = refuse(INVALID_ARGUMENT, "a tensor of more than 3 dimensions");
  }
  if (s == NULL && t->rank > 0) {
    s = CALL(DIMENSIONS, status * (*)(const tensor_info *, int64_t *, size_t))(info, t->dim, t->rank);
  }
  CALL(RELEASE_TENSOR_INFO, void (*)(tensor_info *))(info);
  if (s == NULL) {
    s = CALL(TENSOR_DATA, status * (*)(value *, void **))((value *)v, &t->data);
  }
  return s;
}

// inputs reads the first n inputs.
static status *inputs(const context *c, tensor *in, size_t n) {
  for (size_t i = 0; i < n; i++) {
    const value *v = NULL;
    status *s = CALL(GET_INPUT, status * (*)(const context *, size_t, const value **))(c, i, &v);
    if (s == NULL) {
      s = describe(v, &in[i]);
    }
    if (s != NULL) {
      return s;
    }
  }
  return NULL;
}

// output makes the i-th output of the given shape.
static status *output(context *c, size_t i, const int64_t *dims, size_t rank, void **data) {
  value *v = NULL;
  status *s = CALL(GET_OUTPUT, status * (*)(context *, size_t, const int64_t *, size_t, value **))(c, i, dims, rank, &v);
  return s != NULL ? s : CALL(TENSOR_DATA, status * (*)(value *, void **))(v, data);
}

// --- the operators --------------------------------------------------------------------------------------------

// What a node's attributes say.
typedef struct {
  int64_t heads, relu, key_heads, window, causal;
  float epsilon, scale;
} node;

// Pack: x [texts, tokens, hidden] and mask [texts, tokens] of rows padded on the right to the rows of all real
// tokens [T, hidden], and how many each text has [texts].
static status *pack(void *kernel, context *c) {
  (void)kernel;
  tensor in[2];
  status *s = inputs(c, in, 2);
  if (s != NULL) {
    return s;
  }
  const tensor *x = &in[0], *mask = &in[1];
  int64_t texts = x->dim[0], tokens = x->dim[1], hidden = x->dim[2], rows = 0, *lengths;
  if (x->rank != 3 || mask->rank != 2 || mask->dim[0] != texts || mask->dim[1] != tokens) {
    return refuse(INVALID_ARGUMENT, "Pack: want x [texts, tokens, hidden] and mask [texts, tokens]");
  }
  if ((s = output(c, 1, &texts, 1, (void **)&lengths)) != NULL) {
    return s;
  }
  for (int64_t t = 0; t < texts; t++) {
    const int64_t *m = (const int64_t *)mask->data + t * tokens;
    int64_t n = 0, real = 0;
    while (n < tokens && m[n] != 0) {
      n++;
    }
    for (int64_t i = 0; i < tokens; i++) {
      real += m[i] != 0;
    }
    if (real != n) {
      return refuse(INVALID_ARGUMENT, "Pack: the mask has tokens behind padding");
    }
    lengths[t] = n;
    rows += n;
  }
  float *y;
  if ((s = output(c, 0, (int64_t[]){rows, hidden}, 2, (void **)&y)) != NULL) {
    return s;
  }
  for (int64_t t = 0; t < texts; t++) {
    size_t n = (size_t)(lengths[t] * hidden);
    memcpy(y, (const float *)x->data + t * tokens * hidden, n * sizeof(float));
    y += n;
  }
  return NULL;
}

// Unpack: rows [T, hidden], lengths [texts] and mask [texts, tokens] to [texts, tokens, hidden], 0 for padding.
static status *unpack(void *kernel, context *c) {
  (void)kernel;
  tensor in[3];
  status *s = inputs(c, in, 3);
  if (s != NULL) {
    return s;
  }
  const float *x = in[0].data;
  const int64_t *lengths = in[1].data;
  int64_t texts = in[1].dim[0], tokens = in[2].dim[1], hidden = in[0].dim[1], rows = 0;
  bool fits = in[0].rank == 2 && in[1].rank == 1 && in[2].rank == 2 && in[2].dim[0] == texts;
  for (int64_t t = 0; fits && t < texts; t++) {
    fits = lengths[t] >= 0 && lengths[t] <= tokens;
    rows += lengths[t];
  }
  if (!fits || rows != in[0].dim[0]) {
    return refuse(INVALID_ARGUMENT, "Unpack: want rows [T, hidden], lengths [texts] that sum up to T, mask [texts, tokens]");
  }
  float *y;
  if ((s = output(c, 0, (int64_t[]){texts, tokens, hidden}, 3, (void **)&y)) != NULL) {
    return s;
  }
  for (int64_t t = 0; t < texts; t++, y += tokens * hidden) {
    size_t n = (size_t)(lengths[t] * hidden);
    memcpy(y, x, n * sizeof(float));
    memset(y + n, 0, (size_t)(tokens * hidden) * sizeof(float) - n * sizeof(float));
    x += n;
  }
  return NULL;
}

// The work of a node, block by block, on one thread or on several of the runtime's.
typedef struct {
  const ef_attention *attention; // or
  const ef_attend *attend;       // or
  const ef_feed_forward *feed_forward;
  const float *k, *v; // of attend
  const float *x;
  float *y;
  const int64_t *lengths;
  const ef_block *blocks;
  int failed;
} job;

static void work(void *data, size_t i) {
  job *j = data;
  int failed = j->attention != NULL ? ef_attention_run(j->attention, j->x, j->y, j->lengths, &j->blocks[i])
               : j->attend != NULL  ? ef_attend_run(j->attend, j->x, j->k, j->v, j->y, j->lengths, &j->blocks[i])
                                    : ef_feed_forward_run(j->feed_forward, j->x, j->y, &j->blocks[i]);
  if (failed) {
    __atomic_store_n(&j->failed, 1, __ATOMIC_RELAXED);
  }
}

static status *run(context *c, job *j, int64_t blocks) {
  if (blocks == 1) {
    work(j, 0);
  } else if (blocks > 1) {
    status *s = CALL(PARALLEL_FOR, status * (*)(const context *, void (*)(void *, size_t), size_t, size_t, void *))(
        c, work, (size_t)blocks, 0, j);
    if (s != NULL) {
      return s;
    }
  }
  return j->failed ? refuse(FAIL, "no memory for what lies between two products") : NULL;
}

// SelfAttention: x [T, hidden], lengths [texts], the weights and biases of query, key and value in one and of the
// output, the norm's scale and shift, to [T, hidden].
static status *self_attention(void *kernel, context *c) {
  const node *n = kernel;
  tensor in[8];
  status *s = inputs(c, in, 8);
  if (s != NULL) {
    return s;
  }
  int64_t rows = in[0].dim[0], h = in[0].dim[1], texts = in[1].dim[0], sum = 0;
  const int64_t *lengths = in[1].data;
  bool fits = in[0].rank == 2 && in[1].rank == 1 && h % 32 == 0 && n->heads > 0 && h % n->heads == 0 &&
              count(&in[2]) == 3 * h * h && count(&in[3]) == 3 * h && count(&in[4]) == h * h && count(&in[5]) == h &&
              count(&in[6]) == h && count(&in[7]) == h;
  for (int64_t t = 0; fits && t < texts; t++) {
    fits = lengths[t] >= 0;
    sum += lengths[t];
  }
  if (!fits || sum != rows) {
    return refuse(INVALID_ARGUMENT, "SelfAttention: the inputs' shapes do not fit each other");
  }
  ef_attention op = {
      .hidden = h,
      .heads = n->heads,
      .in = {in[2].data, in[3].data},
      .out = {in[4].data, in[5].data},
      .norm = {in[6].data, in[7].data, n->epsilon},
  };
  job j = {.attention = &op, .x = in[0].data, .lengths = lengths};
  if ((s = output(c, 0, in[0].dim, 2, (void **)&j.y)) != NULL) {
    return s;
  }
  ef_block *blocks = malloc(sizeof(ef_block) * (size_t)(texts + 1));
  if (blocks == NULL) {
    return refuse(FAIL, "no memory for a list of blocks");
  }
  j.blocks = blocks;
  s = run(c, &j, ef_attention_blocks(lengths, texts, blocks));
  free(blocks);
  return s;
}

// Attend: queries [T, heads * width], keys and values [T, key heads * width], lengths [texts], cosines and sines
// [tokens, width/2] or empty, to [T, heads * width].
static status *attend(void *kernel, context *c) {
  const node *n = kernel;
  tensor in[6];
  status *s = inputs(c, in, 6);
  if (s != NULL) {
    return s;
  }
  int64_t rows = in[0].dim[0], texts = in[3].dim[0], sum = 0, longest = 0, width = n->heads > 0 ? in[0].dim[1] / n->heads : 0;
  const int64_t *lengths = in[3].data;
  bool fits = in[0].rank == 2 && in[1].rank == 2 && in[2].rank == 2 && in[3].rank == 1 && in[4].rank == 2 && in[5].rank == 2 && width > 0 &&
              n->key_heads > 0 && n->heads % n->key_heads == 0 && in[0].dim[1] == n->heads * width && in[1].dim[0] == rows &&
              in[2].dim[0] == rows && in[1].dim[1] == n->key_heads * width && in[2].dim[1] == n->key_heads * width;
  for (int64_t t = 0; fits && t < texts; t++) {
    fits = lengths[t] >= 0;
    sum += lengths[t];
    longest = lengths[t] > longest ? lengths[t] : longest;
  }
  bool turns = count(&in[4]) > 0;
  if (turns) {
    fits = fits && width % 2 == 0 && in[4].dim[0] >= longest && in[4].dim[1] == width / 2 && in[5].dim[0] == in[4].dim[0] && in[5].dim[1] == width / 2;
  }
  if (!fits || sum != rows) {
    return refuse(INVALID_ARGUMENT, "Attend: the inputs' shapes do not fit each other");
  }
  ef_attend op = {
      .heads = n->heads, .key_heads = n->key_heads, .width = width, .window = n->window, .causal = (int)n->causal, .scale = n->scale,
      .cosine = turns ? in[4].data : NULL, .sine = turns ? in[5].data : NULL,
  };
  job j = {.attend = &op, .x = in[0].data, .k = in[1].data, .v = in[2].data, .lengths = lengths};
  if ((s = output(c, 0, in[0].dim, 2, (void **)&j.y)) != NULL) {
    return s;
  }
  ef_block *blocks = malloc(sizeof(ef_block) * (size_t)(texts + 1));
  if (blocks == NULL) {
    return refuse(FAIL, "no memory for a list of blocks");
  }
  j.blocks = blocks;
  s = run(c, &j, ef_attention_blocks(lengths, texts, blocks));
  free(blocks);
  return s;
}

// FeedForward: x [T, hidden], the weights and biases up and down, the norm's scale and shift, to [T, hidden].
static status *feed_forward(void *kernel, context *c) {
  const node *n = kernel;
  tensor in[7];
  status *s = inputs(c, in, 7);
  if (s != NULL) {
    return s;
  }
  int64_t rows = in[0].dim[0], h = in[0].dim[1], inner = count(&in[2]);
  if (in[0].rank != 2 || h % 32 != 0 || inner % 32 != 0 || inner == 0 || count(&in[1]) != h * inner ||
      count(&in[3]) != h * inner || count(&in[4]) != h || count(&in[5]) != h || count(&in[6]) != h) {
    return refuse(INVALID_ARGUMENT, "FeedForward: the inputs' shapes do not fit each other");
  }
  ef_feed_forward op = {
      .hidden = h,
      .inner = inner,
      .relu = (int)n->relu,
      .up = {in[1].data, in[2].data},
      .down = {in[3].data, in[4].data},
      .norm = {in[5].data, in[6].data, n->epsilon},
  };
  job j = {.feed_forward = &op, .x = in[0].data};
  if ((s = output(c, 0, in[0].dim, 2, (void **)&j.y)) != NULL) {
    return s;
  }
  ef_block *blocks = malloc(sizeof(ef_block) * (size_t)(rows + 1));
  if (blocks == NULL) {
    return refuse(FAIL, "no memory for a list of blocks");
  }
  j.blocks = blocks;
  s = run(c, &j, ef_feed_forward_blocks(&op, rows, blocks));
  free(blocks);
  return s;
}

// --- registration ---------------------------------------------------------------------------------------------

static const char *name_of(const operator_ *o) { return o->called; }
static const char *any_provider(const operator_ *o) { return (void)o, "CPUExecutionProvider"; }
static int type_of(char c) { return c == 'f' ? FLOAT : INT64; }
static int input_type(const operator_ *o, size_t i) { return type_of(o->inputs[i]); }
static size_t input_count(const operator_ *o) { return strlen(o->inputs); }
static int output_type(const operator_ *o, size_t i) { return type_of(o->outputs[i]); }
static size_t output_count(const operator_ *o) { return strlen(o->outputs); }
static int zero_at(const operator_ *o, size_t i) { return (void)o, (void)i, 0; } // required; in ordinary memory
static int one(const operator_ *o) { return (void)o, 1; }
static int last_version(const operator_ *o) { return (void)o, 0x7fffffff; }
static void destroy(void *kernel) { free(kernel); }

// create reads a node's attributes. Those that an operator does not have stay 0.
static status *create(const operator_ *o, const void *table, const kernel_info *info, void **kernel) {
  (void)table;
  node *n = calloc(1, sizeof(node));
  if (n == NULL) {
    return refuse(FAIL, "no memory for a node");
  }
  status *s = NULL;
  // Each attribute with the operators that have it.
  const struct {
    const char *of, *name;
    int64_t *whole;
    float *real;
  } attributes[] = {
      {"SelfAttention Attend", "heads", &n->heads, NULL}, {"Attend", "key_heads", &n->key_heads, NULL},
      {"Attend", "window", &n->window, NULL},             {"Attend", "causal", &n->causal, NULL},
      {"Attend", "scale", NULL, &n->scale},               {"FeedForward", "relu", &n->relu, NULL},
      {"SelfAttention FeedForward", "epsilon", NULL, &n->epsilon},
  };
  for (size_t i = 0; s == NULL && i < sizeof attributes / sizeof *attributes; i++) {
    if (strstr(attributes[i].of, o->called) == NULL) {
      continue;
    }
    s = attributes[i].whole != NULL
            ? CALL(ATTRIBUTE_INT64, status * (*)(const kernel_info *, const char *, int64_t *))(info, attributes[i].name, attributes[i].whole)
            : CALL(ATTRIBUTE_FLOAT, status * (*)(const kernel_info *, const char *, float *))(info, attributes[i].name, attributes[i].real);
  }
  if (s != NULL) {
    free(n);
    return s;
  }
  *kernel = n;
  return NULL;
}

#define OPERATOR(name_, inputs_, outputs_, compute_)                                                                  \
  {                                                                                                                   \
      .version = API_VERSION, .name = name_of, .provider = any_provider, .input_type = input_type,                    \
      .input_count = input_count, .output_type = output_type, .output_count = output_count, .destroy = destroy,       \
      .input_characteristic = zero_at, .output_characteristic = zero_at, .input_memory = zero_at, .least_inputs = one, \
      .alike_inputs = one, .least_outputs = one, .alike_outputs = one, .create_v2 = create, .compute_v2 = compute_,   \
      .start_version = one, .end_version = last_version, .called = name_, .inputs = inputs_, .outputs = outputs_,     \
  }

static const operator_ operators[] = {
    OPERATOR("Pack", "fi", "fi", pack),
    OPERATOR("Unpack", "fii", "f", unpack),
    OPERATOR("SelfAttention", "fiffffff", "f", self_attention),
    OPERATOR("Attend", "fffiff", "f", attend),
    OPERATOR("FeedForward", "fffffff", "f", feed_forward),
};

// told returns an error's text, which is then the caller's, and frees the error.
static char *told(status *s) {
  char *text = strdup(CALL(GET_ERROR_MESSAGE, const char *(*)(const status *))(s));
  CALL(RELEASE_STATUS, void (*)(status *))(s);
  return text;
}

char *ef_domain(const char *library, const char *name, void **made) {
  void *handle = dlopen(library, RTLD_NOW | RTLD_NOLOAD);
  if (handle == NULL) {
    return strdup("the runtime's library is not loaded");
  }
  const api_base *(*base)(void) = (const api_base *(*)(void))dlsym(handle, "OrtGetApiBase");
  dlclose(handle); // whoever loaded it keeps it
  const void *const *table = base == NULL ? NULL : base()->get_api(API_VERSION);
  if (table == NULL) {
    return strdup("the runtime's library does not offer API version 24");
  }
  api = table;
  domain *d = NULL;
  status *s = CALL(CREATE_DOMAIN, status * (*)(const char *, domain **))(name, &d);
  for (size_t i = 0; s == NULL && i < sizeof operators / sizeof *operators; i++) {
    s = CALL(DOMAIN_ADD, status * (*)(domain *, const operator_ *))(d, &operators[i]);
  }
  *made = d;
  return s == NULL ? NULL : told(s);
}

char *ef_add_domain(void *options, void *made) {
  status *s = CALL(ADD_DOMAIN, status * (*)(void *, domain *))(options, made);
  return s == NULL ? NULL : told(s);
}
