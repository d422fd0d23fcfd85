/* What the emulator's libcuda.so has beside the CUDA driver API. Functions return a CUresult.
 *
 * The environment configures the library when cuInit is called first:
 *   CUDA_EMU_DEVICES  the devices, in order: A100, H100, RTX_4090 (default: all three)
 *   CUDA_EMU_CHECKS   words, from left to right: all, none, memory, uninitialised, races, barriers, operands;
 *                     with a - before it a check is switched off; seed=7 and threads=2 set the order in which warps
 *                     run and the host threads (default: all checks, seed=1, a thread per core)
 *   CUDA_EMU_REPORT   a file that gets a line of JSON per launch, with its counters or its fault
 *
 * A fault also goes to stderr as one line. As on a GPU the launch itself succeeds, and every later call in the context
 * returns the error.
 */
#ifndef CUEMU_H
#define CUEMU_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What a launch may do with an operand. */
enum {
    CUEMU_READ = 0,          /* read it */
    CUEMU_WRITE = 1,         /* write all of it; what it held before counts as uninitialised */
    CUEMU_WRITE_PARTIAL = 2, /* write some of it; the rest keeps what it held */
    CUEMU_READ_WRITE = 3     /* both */
};

/* Global memory that a launch uses: `rows` runs of `bytes`, `stride` bytes from one to the next. */
typedef struct CuEmuOperand {
    uint64_t address;
    uint64_t bytes;
    uint64_t rows;
    uint64_t stride;
    uint32_t access;
} CuEmuOperand;

/* Declares everything in global memory that the calling thread's next launch may touch. It holds for that launch
 * only; of a captured launch or a kernel node it is kept and holds whenever the node runs.
 * CUDA_ERROR_INVALID_VALUE: an unknown access, or rows that overlap or end beyond all addresses. */
unsigned cuEmuOperands(const CuEmuOperand *operands, unsigned count);

/* The counters of the last launch in the current context, as a JSON object; the names are those of counters.rs.
 * `bytes` is the room at `json` and becomes the bytes that are needed, with the terminator; `json` may be null.
 * CUDA_ERROR_NOT_FOUND: nothing was launched. CUDA_ERROR_INVALID_VALUE: too little room. */
unsigned cuEmuCounters(char *json, size_t *bytes);

/* The report of the fault that broke the current context, as one line of text. As cuEmuCounters.
 * CUDA_ERROR_NOT_FOUND: there was no fault. */
unsigned cuEmuLastFault(char *text, size_t *bytes);

#ifdef __cplusplus
}
#endif

#endif
