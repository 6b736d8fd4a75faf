// Quantized weights: formats of blocks, blocks to and from floats, and matrices that stay quantized.
#pragma once

#include <remat/kernels/quantized/block_decode.hpp>
#include <remat/kernels/quantized/block_encode.hpp>
#include <remat/kernels/quantized/block_format.hpp>
#include <remat/kernels/quantized/block_matrix.hpp>
#include <remat/kernels/quantized/half.hpp>
#include <remat/kernels/quantized/int8_rows.hpp>
#include <remat/kernels/quantized/nf4_blocks.hpp>
