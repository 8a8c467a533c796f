/* libnnc: runs what nnc has compiled. `nnc build FILE --emit c` writes this file, the libraries, and a header with a program's own functions.
 *
 * Every function that can fail returns a status; nnc_error() says what was wrong. Texts are UTF-8 that ends in a zero. A model may be used by one thread at
 * a time (NNC_USAGE otherwise); what it computes is the same for any number of threads of its own. */
#ifndef NNC_H
#define NNC_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A compiled program with its weights. */
typedef struct nnc_model nnc_model;

typedef int32_t nnc_status;
enum {
    NNC_OK = 0,
    NNC_WRONG = 1,       /* the program, the data, or a file's content */
    NNC_USAGE = 2,       /* the arguments of the call */
    NNC_UNSUPPORTED = 3, /* not on this machine */
    NNC_WORLD = 4,       /* a file, the disk, memory */
    NNC_BROKEN = 5       /* a mistake in nnc; the model cannot be used any more, only closed */
};

typedef int32_t nnc_dtype;
enum {
    NNC_F32 = 0,  /* float */
    NNC_F64 = 1,  /* double */
    NNC_I64 = 2,  /* int64_t: classes, words, positions */
    NNC_BOOL = 3  /* uint8_t, 0 or 1 */
};

/* A named array, row-major without gaps. */
typedef struct {
    const char *name;
    nnc_dtype dtype;
    size_t rank;          /* 0 for a single number */
    const int64_t *shape; /* rank sizes */
    const void *data;
} nnc_array;

/* What went wrong in this thread's last call, a sentence; "" where it went well. Valid until this thread's next call. */
const char *nnc_error(void);

/* Loads an artifact (.nnc) from a file, or from memory, which may be freed afterwards. On failure *model is NULL. */
nnc_status nnc_open(const char *path, nnc_model **model);
nnc_status nnc_open_memory(const void *bytes, size_t size, nnc_model **model);
/* Frees it and all its results; NULL is nothing to free. */
void nnc_close(nnc_model *model);

/* So many threads, the caller's included; all cores at first. */
nnc_status nnc_set_threads(nnc_model *model, size_t threads);
/* The size of a free dim, which is needed where no array's shape decides it. */
nnc_status nnc_set_dim(nnc_model *model, const char *name, int64_t size);

/* Runs a model of the program; `name` may be NULL where there is only one. The inputs are copied. */
nnc_status nnc_infer(nnc_model *model, const char *name, const nnc_array *inputs, size_t count);

/* A step of a recipe's optimizer on one batch; an epoch over all samples of the arrays in the recipe's batches; a recipe's metrics on all samples.
 * `recipe` may be NULL where there is only one. Samples lie along the first axis. */
nnc_status nnc_train_step(nnc_model *model, const char *recipe, const nnc_array *columns, size_t count);
nnc_status nnc_train_epoch(nnc_model *model, const char *recipe, const nnc_array *columns, size_t count);
nnc_status nnc_eval(nnc_model *model, const char *recipe, const nnc_array *columns, size_t count);
/* Changes a recipe's setting: "optimizer.lr" to "0.01", "batch", "steps", "seed". */
nnc_status nnc_set(nnc_model *model, const char *recipe, const char *setting, const char *value);

/* The results of the last nnc_infer, nnc_train_step, nnc_train_epoch or nnc_eval that went well: arrays, or metrics as single numbers (NNC_F64), the loss first.
 * They are the model's, until its next call. `count` may be NULL. */
const nnc_array *nnc_results(nnc_model *model, size_t *count);

/* Initial weights, drawn from the seed. */
nnc_status nnc_initialise(nnc_model *model, uint64_t seed);
/* Weights from a file (.safetensors, .npz); to a file (.safetensors). */
nnc_status nnc_load_weights(nnc_model *model, const char *path);
nnc_status nnc_save_weights(nnc_model *model, const char *path);
/* An artifact (.nnc) with the present weights inside. */
nnc_status nnc_save(nnc_model *model, const char *path);

#ifdef __cplusplus
}
#endif

#endif
