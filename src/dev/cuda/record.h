/* Work that is put off within a step: launches, copies and zeros become a list, which is carried
 * out when something is read or the step ends. A list whose kernels are those of one before it, in
 * the same order, is a graph that exists: what changed of its arguments is told to it, and it is
 * started as a whole. On a GPU that is a CUDA graph; elsewhere a list that is kept.
 *
 * Owner: all of it belongs to the thread that drives the device. */
#ifndef SP_DEV_CUDA_RECORD_H
#define SP_DEV_CUDA_RECORD_H

#include "dev/cuda/lib.h"

enum { SP_CUDA_ARGS = 384 /* bytes of a kernel's arguments at most */ };
enum sp_cuda_work { SP_CUDA_LAUNCH, SP_CUDA_WRITE, SP_CUDA_COPY, SP_CUDA_ZERO };

typedef struct sp_cuda_node {
    enum sp_cuda_work kind;
    uint32_t n_thread, n_x, n_y;
    const void *kernel;         /* launch: its address */
    size_t shared_bytes;
    void *to;                   /* the others */
    const void *from;
    size_t n_bytes;             /* of to, or of args */
    char args[SP_CUDA_ARGS];
} sp_cuda_node;

/* Does it now, or puts it off. What a write reads from is copied. Errors as in lib.h. */
int sp_cuda_do(const sp_cuda_node *n);
/* Does what was put off and waits for it. */
int sp_cuda_flush(void);
/* From here on work is put off. */
int sp_cuda_begin_step(void);
/* Does what was put off, waits for all work of the device, and puts nothing off any more. */
int sp_cuda_end_step(void);
/* Graphs that were made, started and told since the library was opened. */
void sp_cuda_counts_get(sp_cuda_counts *out);
/* Gives up the lists and graphs that are kept. */
void sp_cuda_record_close(void);

/* What follows is the runtime's, of rt.cu. */
/* Memory for what a write reads from, which the device reads too, or NULL. */
void *sp_cuda_staging(size_t n_bytes);
void sp_cuda_staging_free(void *p); /* NULL is fine */
/* Starts one thing at once. */
int sp_cuda_node_run(const sp_cuda_node *n);
/* Waits for all that was started. */
int sp_cuda_wait(void);
/* A graph of nodes, each after the one before it. */
typedef struct sp_cuda_graph sp_cuda_graph;
int sp_cuda_graph_new(sp_cuda_graph **out, const sp_cuda_node *node, size_t n);
void sp_cuda_graph_free(sp_cuda_graph *g);
/* Tells the graph node i as it is now. */
int sp_cuda_graph_set(sp_cuda_graph *g, size_t i, const sp_cuda_node *node);
int sp_cuda_graph_start(sp_cuda_graph *g);

#endif
