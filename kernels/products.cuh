// What an entry multiplies, in each format: its first parameters FORMAT_PARAMS(T), of which FORMAT_PRODUCT(T, rows, M, N, K) is made.
#pragma once

#include "codes.cuh"
#include "floats.cuh"
#include "w8a8.cuh"

#define FLOATS_PARAMS(T) const T *x, const T *weight
#define W4A16_PARAMS(T) const T *x, const u8 *weight, int groups, int chains, int zeros
#define W8A16_PARAMS(T) W4A16_PARAMS(T)
#define W8A8_PARAMS(T) const i8 *x, const float *x_scales, const u8 *weight

#define FLOATS_PRODUCT(T, ...) (Product<Floats<T>>{x, {weight}, __VA_ARGS__})
#define W4A16_PRODUCT(T, ...) (Product<Codes<T, 4>>{x, {weight, groups, chains, zeros}, __VA_ARGS__})
#define W8A16_PRODUCT(T, ...) (Product<Codes<T, 8>>{x, {weight, groups, chains, zeros}, __VA_ARGS__})
#define W8A8_PRODUCT(T, ...) (Product<Int8>{x, {weight, x_scales}, __VA_ARGS__})

// The shapes of a kernel whose entries ENTRY(NAME, SHAPE, FORMAT, ...) makes.
#define SHAPES(NAME, ...) ENTRY(NAME##_narrow, Narrow, __VA_ARGS__) ENTRY(NAME##_wide, Wide, __VA_ARGS__)
#define SHAPES_W8A8(NAME, ...) ENTRY(NAME##_narrow, NarrowInt8, W8A8, __VA_ARGS__) ENTRY(NAME##_wide, WideInt8, W8A8, __VA_ARGS__)
