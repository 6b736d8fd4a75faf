// Quantized weights: formats of blocks, and blocks to and from floats.
#pragma once

#include <remat/kernels/quantized/block_decode.hpp>
#include <remat/kernels/quantized/block_encode.hpp>
#include <remat/kernels/quantized/block_format.hpp>
#include <remat/kernels/quantized/half.hpp>
