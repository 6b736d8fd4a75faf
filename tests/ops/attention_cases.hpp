// Rows of attention.
#pragma once

#include <ops/op_case.hpp>
#include <remat/ops/attention.hpp>

namespace remat_test {

inline void attention_cases(const AddCase& row) {
  const std::vector<OpInputs> attention_inputs = {
      on({{2, 5, 4, 5}, {2, 5, 2, 5}, {2, 5, 2, 5}}),    on({{1, 3, 2, 4}, {1, 9, 1, 4}, {1, 9, 1, 4}}),
      on({{2, 6, 1, 3}, {2, 4, 1, 3}, {2, 4, 1, 3}}),    on({{1, 1, 1, 1}, {1, 1, 1, 1}, {1, 1, 1, 1}}),
      on({{1, 70, 1, 2}, {1, 70, 1, 2}, {1, 70, 1, 2}}), on({{0, 3, 2, 4}, {0, 3, 2, 4}, {0, 3, 2, 4}}),
      on({{2, 0, 2, 4}, {2, 3, 2, 4}, {2, 3, 2, 4}}),    on({{2, 3, 2, 4}, {2, 0, 2, 4}, {2, 0, 2, 4}})};
  row({.name = "attention",
       .fn = [](const auto& in) { return attention(in[0], in[1], in[2]); },
       .inputs = attention_inputs});
  row({.name = "attention causal",
       .fn = [](const auto& in) { return attention(in[0], in[1], in[2], {.causal = true}); },
       .inputs = attention_inputs});
  row({.name = "attention with offset, scale and dropout",
       .fn =
           [](const auto& in) {
             return attention(in[0], in[1], in[2], {.causal = true, .offset = 1, .scale = 0.7, .dropout = 0.3});
           },
       .inputs = {on({{2, 5, 4, 3}, {2, 7, 2, 3}, {2, 7, 2, 3}})},
       .is_random = true});
  row({.name = "attention with window, soft cap and alibi",
       .fn =
           [](const auto& in) {
             return attention(in[0], in[1], in[2], {.causal = true, .window = 4, .soft_cap = 0.6, .alibi = true});
           },
       .inputs = {on({{2, 7, 3, 2}, {2, 9, 3, 2}, {2, 9, 3, 2}}), on({{1, 70, 1, 2}, {1, 70, 1, 2}, {1, 70, 1, 2}})}});
  row({.name = "attention with rotary and chunks",
       .fn =
           [](const auto& in) {
             return attention(in[0], in[1], in[2],
                              {.query_chunk = 3, .key_chunk = 5, .rotary_base = 100, .rotary_dims = 4});
           },
       .inputs = {on({{2, 7, 2, 5}, {2, 9, 1, 5}, {2, 9, 1, 5}})}});
  row({.name = "attention with bias",
       .fn =
           [](const auto& in) {
             return attention(in[0], in[1], in[2], {.causal = true}, {.bias = in[3], .relative_bias = in[4]});
           },
       .inputs = {on({{2, 7, 2, 3}, {2, 9, 1, 3}, {2, 9, 1, 3}, {2, 2, 7, 9}, {4, 2}}),
                  on({{2, 6, 2, 3}, {2, 5, 2, 3}, {2, 5, 2, 3}, {1, 2, 1, 5}, {6, 2}}),
                  on({{1, 70, 1, 2}, {1, 70, 1, 2}, {1, 70, 1, 2}, {1, 1, 70, 70}, {32, 1}}),
                  on({{0, 3, 2, 4}, {0, 3, 2, 4}, {0, 3, 2, 4}, {1, 2, 3, 3}, {4, 2}}),
                  on({{2, 3, 2, 4}, {2, 0, 2, 4}, {2, 0, 2, 4}, {2, 2, 3, 0}, {4, 2}})}});
  row({.name = "attention with masks",
       .fn =
           [](const auto& in) {
             return attention(in[0], in[1], in[2], {.causal = true},
                              {.key_lengths = in.integers[0],
                               .query_segments = in.integers[1],
                               .prefix_lengths = in.integers[2],
                               .relative_bias = in[3]});
           },
       .inputs = {on({{2, 7, 2, 3}, {2, 7, 2, 3}, {2, 7, 2, 3}, {4, 2}},
                     {{.shape = {2}, .values = {5, 7}},
                      {.shape = {2, 7}, .values = {0, 0, 0, 1, 1, 1, 2, 0, 1, 0, 1, 0, 1, 0}},
                      {.shape = {2}, .values = {3, 0}}})}});
  row({.name = "attention with offsets and positions of rows",
       .fn =
           [](const auto& in) {
             return attention(in[0], in[1], in[2], {.causal = true, .window = 5, .rotary_base = 100, .alibi = true},
                              {.relative_bias = in[3],
                               .positions = in.integers[0],
                               .key_positions = in.integers[1],
                               .query_offsets = in.integers[2]});
           },
       .inputs = {on(
           {{2, 3, 2, 4}, {2, 7, 1, 4}, {2, 7, 1, 4}, {4, 2}},
           {{.shape = {2, 3}, .limit = 2000}, {.shape = {2, 7}, .limit = 2000}, {.shape = {2}, .values = {4, 1}}})}});
  row({.name = "attention with sinks",
       .fn =
           [](const auto& in) {
             return attention(in[0], in[1], in[2], {.causal = true, .soft_cap = 2},
                              {.key_lengths = in.integers[0], .sinks = in[3]});
           },
       .inputs = {on({{2, 5, 4, 3}, {2, 5, 2, 3}, {2, 5, 2, 3}, {4}}, {{.shape = {2}, .values = {4, 0}}}),
                  on({{1, 70, 1, 2}, {1, 70, 1, 2}, {1, 70, 1, 2}, {1}}, {{.shape = {1}, .values = {70}}})}});
  row({.name = "attention_qkv with sinks, a lop-sided window, interleaved YaRN and dropout",
       .fn =
           [](const auto& in) {
             remat::AttentionOptions how{.dropout = 0.3, .window = 2, .rotary_base = 100};
             how.window_right = 4, how.rotary_interleaved = true;
             how.rotary_scaling = {remat::RotaryScaling::yarn, 4, 1, 4, 64};
             return attention_qkv(in[0], 2, 1, how, {.sinks = in[1]});
           },
       .inputs = {on({{2, 7, 16}, {2}})},
       .is_random = true});
  row({.name = "attention with its weights and a head mask",
       .fn =
           [](const auto& in) {
             auto weights = in[0];
             return attention(in[0], in[1], in[2], {.dropout = 0.3, .window = 4, .soft_cap = 2},
                              {.key_lengths = in.integers[0],
                               .query_segments = in.integers[1],
                               .key_segments = in.integers[2],
                               .bias = in[3],
                               .head_mask = in[4],
                               .weights = &weights});
           },
       .inputs = {on({{2, 5, 4, 3}, {2, 6, 2, 3}, {2, 6, 2, 3}, {1, 4, 1, 6}, {4}},
                     {{.shape = {2}, .values = {5, 6}},
                      {.shape = {2, 5}, .values = {0, 0, 1, 1, 2, 0, 1, 0, 1, 0}},
                      {.shape = {2, 6}, .values = {0, 0, 1, 1, 1, 0, 1, 0, 1, 0, 1, 0}}}),
                  on({{0, 3, 2, 4}, {0, 3, 2, 4}, {0, 3, 2, 4}, {1, 1, 1, 1}, {2}},
                     {{.shape = {0}}, {.shape = {0, 3}}, {.shape = {0, 3}}})},
       .is_random = true});
  row({.name = "weights of attention",
       .fn =
           [](const auto& in) {
             auto weights = in[0];
             attention(in[0], in[1], in[1], {.causal = true},
                       {.prefix_lengths = in.integers[0], .query_offsets = in.integers[1], .weights = &weights});
             return weights;
           },
       .inputs = {
           on({{2, 5, 2, 3}, {2, 7, 1, 3}}, {{.shape = {2}, .values = {3, 0}}, {.shape = {2}, .values = {0, 3}}}),
           on({{1, 1, 2, 2}, {1, 1, 1, 2}}, {{.shape = {1}, .values = {0}}, {.shape = {1}, .values = {0}}}),
           on({{1, 7, 1, 4}, {1, 7, 1, 4}}, {{.shape = {1}, .values = {2}}, {.shape = {1}, .values = {0}}}),
           on({{1, 33, 1, 2}, {1, 33, 1, 2}}, {{.shape = {1}, .values = {3}}, {.shape = {1}, .values = {0}}})}});
  row({.name = "attention with a head mask",
       .fn = [](const auto& in) { return attention(in[0], in[1], in[2], {.causal = true}, {.head_mask = in[3]}); },
       .inputs = {on({{2, 5, 4, 3}, {2, 5, 2, 3}, {2, 5, 2, 3}, {4}})}});
  row({.name = "attention_qkv with a head mask",
       .fn = [](const auto& in) { return attention_qkv(in[0], 2, 1, {}, {.head_mask = in[1]}); },
       .inputs = {on({{2, 7, 16}, {2}})}});
  row({.name = "attention_qkv with its weights",
       .fn =
           [](const auto& in) {
             auto weights = in[0];
             return attention_qkv(in[0], 2, 1, {.causal = true}, {.weights = &weights});
           },
       .inputs = {on({{2, 7, 16}}), on({{1, 1, 8}}), on({{1, 33, 4}}), on({{0, 3, 8}})}});
  row({.name = "rotary by pairs of factors, interleaved",
       .fn =
           [](const auto& in) {
             remat::RotaryOptions turn{.base = 100};
             turn.interleaved = true;
             turn.scaling = {remat::RotaryScaling::longrope, 4, 1, 4, 64};
             turn.scaling.factors = {1, 2};
             return rotary(in[0], turn);
           },
       .inputs = {on({{2, 3, 3, 4}})}});
  row({.name = "rotary in proportion to whole heads",
       .fn =
           [](const auto& in) {
             remat::RotaryOptions turn{.base = 100, .dims = 2};
             turn.scaling = {remat::RotaryScaling::proportional, 2};
             return rotary(in[0], turn);
           },
       .inputs = {on({{2, 3, 3, 6}})}});
  row({.name = "rotary",
       .fn = [](const auto& in) { return rotary(in[0], {.base = 100, .dims = 2, .heads = 2, .offset = 5}); },
       .inputs = {on({{2, 3, 3, 4}}), on({{1, 1, 2, 2}}), on({{0, 3, 2, 4}}), on({{2, 0, 2, 4}})}});
  row({.name = "rotary at positions",
       .fn =
           [](const auto& in) {
             remat::RotaryOptions turn{.base = 100};
             turn.scaling = {remat::RotaryScaling::llama3, 8, 1, 4, 64};
             return rotary(in[0], turn, in.integers[0]);
           },
       .inputs = {on({{2, 3, 3, 6}}, {{.shape = {2, 3}, .limit = 3000}})}});
  row({.name = "attention_qkv",
       .fn = [](const auto& in) { return attention_qkv(in[0], 4, 2, {.causal = true}); },
       .inputs = {on({{2, 7, 24}}), on({{1, 66, 8}}), on({{0, 3, 8}}), on({{2, 0, 8}})}});
  row({.name = "attention_qkv with dropout",
       .fn = [](const auto& in) { return attention_qkv(in[0], 2, 1, {.causal = true, .dropout = 0.3}); },
       .inputs = {on({{2, 7, 12}})},
       .is_random = true});
  row({.name = "attention_qkv with bias, masks and rotary",
       .fn =
           [](const auto& in) {
             return attention_qkv(in[0], 2, 1, {.window = 4, .soft_cap = 2, .rotary_base = 10000},
                                  {.query_segments = in.integers[0], .bias = in[1], .relative_bias = in[2]});
           },
       .inputs = {on({{2, 7, 16}, {1, 2, 7, 7}, {8, 2}}, {{.shape = {2, 7}, .limit = 2}})}});
}

}  // namespace remat_test
