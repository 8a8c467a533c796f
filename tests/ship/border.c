/* What a C program may do to libnnc, well and badly. Arguments: an artifact without weights, a file that is none, where weights go, where an artifact goes. */
#include "kinds.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                         \
    do {                                                                                         \
        if (!(condition)) {                                                                      \
            fprintf(stderr, "line %d: " #condition " (status %d: %s)\n", __LINE__, last, nnc_error()); \
            exit(1);                                                                             \
        }                                                                                        \
    } while (0)

static nnc_status last;

/* The call must end with this status, and a sentence that has these words in it. */
#define FAILS(call, status, words)                    \
    do {                                              \
        last = (call);                                \
        CHECK(last == (status));                      \
        CHECK(strstr(nnc_error(), words) != NULL);    \
    } while (0)

#define DONE(call)                                     \
    do {                                               \
        last = (call);                                 \
        CHECK(last == NNC_OK && nnc_error()[0] == 0);  \
    } while (0)

int main(int argc, char **argv) {
    (void)argc;
    const float x[8] = {0, 1, 1, 0, 1, 1, 0.5f, 0};
    int64_t kind[4] = {0, 1, 2, 1};
    nnc_model *model = (nnc_model *)&last;
    size_t count = 7;

    /* What cannot be opened. */
    FAILS(nnc_open(NULL, &model), NNC_USAGE, "the path is NULL");
    CHECK(model == NULL);
    FAILS(nnc_open("absent.nnc", &model), NNC_WORLD, "cannot read absent.nnc");
    FAILS(nnc_open("\xff", &model), NNC_USAGE, "not UTF-8");
    FAILS(nnc_open(argv[2], &model), NNC_WRONG, "is not an artifact of nnc");
    FAILS(nnc_open(argv[1], NULL), NNC_USAGE, "NULL");
    FAILS(nnc_open_memory(NULL, 0, &model), NNC_USAGE, "NULL");
    FAILS(nnc_open_memory(kinds_artifact, (size_t)kinds_artifact_size - 1, &model), NNC_WRONG, "cut short");
    FAILS(nnc_infer(model, NULL, NULL, 0), NNC_USAGE, "the model is NULL");
    FAILS(kinds_infer(NULL, 4, x, NULL), NNC_USAGE, "the model is NULL");
    CHECK(nnc_results(NULL, &count) == NULL && count == 0);
    nnc_close(NULL);

    /* What cannot be asked. */
    DONE(nnc_open(argv[1], &model));
    FAILS(kinds_infer(model, 4, x, NULL), NNC_USAGE, "no weights");
    FAILS(nnc_save_weights(model, argv[3]), NNC_USAGE, "no weights");
    DONE(nnc_initialise(model, 5));
    FAILS(kinds_infer(model, 4, NULL, NULL), NNC_USAGE, "the data of x are NULL");
    FAILS(kinds_infer(model, -1, x, NULL), NNC_USAGE, "x has the shape [-1, 2]");
    const int64_t wide[] = {4, 3}, flat[] = {8};
    nnc_array bad = {"x", NNC_F32, 2, wide, x};
    FAILS(nnc_infer(model, NULL, &bad, 1), NNC_WRONG, "x has the shape [4, 3]");
    bad.rank = 1, bad.shape = flat;
    FAILS(nnc_infer(model, NULL, &bad, 1), NNC_WRONG, "x has the shape [8]");
    bad.shape = NULL;
    FAILS(nnc_infer(model, NULL, &bad, 1), NNC_USAGE, "its shape is NULL");
    bad.dtype = 9;
    FAILS(nnc_infer(model, NULL, &bad, 1), NNC_USAGE, "has the type 9");
    bad.name = NULL;
    FAILS(nnc_infer(model, NULL, &bad, 1), NNC_USAGE, "name is NULL");
    FAILS(nnc_infer(model, NULL, NULL, 1), NNC_USAGE, "the arrays are NULL");
    FAILS(nnc_infer(model, NULL, NULL, 0), NNC_USAGE, "needs the input x");
    FAILS(nnc_infer(model, "Kind", NULL, 0), NNC_WRONG, "no model Kind; it has Kinds: did you mean Kinds?");
    FAILS(nnc_eval(model, "fti", NULL, 0), NNC_WRONG, "did you mean fit?");
    FAILS(nnc_set(model, NULL, "optimizer.rate", "1"), NNC_USAGE, "no such setting");
    FAILS(nnc_set_dim(model, "C", 1), NNC_WRONG, "no free dim C");
    FAILS(nnc_set_threads(model, 0), NNC_USAGE, "1..=1024");
    FAILS(nnc_load_weights(model, argv[2]), NNC_WRONG, "not a whole safetensors file");
    FAILS(nnc_save(model, "absent/file"), NNC_WORLD, "cannot write absent/file");
    kind[2] = 3;
    FAILS(kinds_train_step(model, 4, x, kind, NULL), NNC_WRONG, "kind holds 3, but must be in 0..3");
    kind[2] = 2;

    /* The same epochs as `nnc run kinds.nn`. */
    DONE(nnc_set_threads(model, 2));
    nnc_close(model);
    DONE(kinds_open(&model));
    double first, second, after;
    DONE(kinds_train_epoch(model, 4, x, kind, &first));
    DONE(kinds_train_epoch(model, 4, x, kind, &second));
    CHECK(second < first);
    DONE(nnc_save_weights(model, argv[3]));
    DONE(kinds_eval(model, 4, x, kind, &after));
    CHECK(after < second);
    const nnc_array *results = nnc_results(model, &count);
    CHECK(count == 1 && strcmp(results->name, "loss") == 0 && results->dtype == NNC_F64 && results->rank == 0);
    CHECK(*(const double *)results->data == after);

    /* The recipe's own rate, and none. */
    double moved, still;
    DONE(kinds_train_step(model, 4, x, kind, &moved));
    DONE(nnc_set(model, NULL, "optimizer.lr", "0"));
    DONE(kinds_train_step(model, 4, x, kind, &moved));
    DONE(kinds_train_step(model, 4, x, kind, &still));
    CHECK(moved == still && moved < after);
    const float *output;
    DONE(kinds_infer(model, 4, x, &output));
    results = nnc_results(model, &count);
    CHECK(count == 1 && results->rank == 2 && results->shape[0] == 4 && results->shape[1] == 3 && results->data == output);
    const float one = output[3];
    DONE(kinds_infer(model, 1, x + 2, &output));
    CHECK(output[0] == one);
    DONE(nnc_save(model, argv[4]));
    nnc_close(model);
    DONE(nnc_open(argv[4], &model));
    DONE(kinds_infer(model, 1, x + 2, &output));
    CHECK(output[0] == one);
    nnc_close(model);
    puts("all is well");
    return 0;
}
