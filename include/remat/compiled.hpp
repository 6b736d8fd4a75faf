// The engine, the ops, and the layers and models that most programs use, of float, double and bfloat16, as
// declarations. A program that includes this header and links remat::compiled takes them from there and compiles none
// itself.
#pragma once

#include <remat/kernels/compiled.hpp>
#include <remat/models.hpp>
#include <remat/remat.hpp>

// Instantiations are declarations: no template can stand for a list of them.
#define REMAT_EACH_OP(HOW, T)                                                                         \
  HOW template struct remat::ops::Activate<T>;                                                        \
  HOW template struct remat::ops::AdaptedLinear<T>;                                                   \
  HOW template struct remat::ops::AddPositions<T>;                                                    \
  HOW template struct remat::ops::ArgExtremum<T, false>;                                              \
  HOW template struct remat::ops::ArgExtremum<T, true>;                                               \
  HOW template struct remat::ops::Attention<T>;                                                       \
  HOW template struct remat::ops::AttentionOp<T, 1>;                                                  \
  HOW template struct remat::ops::AttentionOp<T, 3>;                                                  \
  HOW template struct remat::ops::AttentionQkv<T>;                                                    \
  HOW template struct remat::ops::AttentionWeights<T>;                                                \
  HOW template struct remat::ops::Binary<T, remat::functions::Add>;                                   \
  HOW template struct remat::ops::Binary<T, remat::functions::Divide>;                                \
  HOW template struct remat::ops::Binary<T, remat::functions::Maximum>;                               \
  HOW template struct remat::ops::Binary<T, remat::functions::Minimum>;                               \
  HOW template struct remat::ops::Binary<T, remat::functions::Multiply>;                              \
  HOW template struct remat::ops::Binary<T, remat::functions::Pow>;                                   \
  HOW template struct remat::ops::Binary<T, remat::functions::Subtract>;                              \
  HOW template struct remat::ops::BinaryCrossEntropy<T>;                                              \
  HOW template struct remat::ops::Clamp<T>;                                                           \
  HOW template struct remat::ops::CombineRows<T>;                                                     \
  HOW template struct remat::ops::Compare<T, T>;                                                      \
  HOW template struct remat::ops::Concat<T>;                                                          \
  HOW template struct remat::ops::CrossEntropy<T>;                                                    \
  HOW template struct remat::ops::CumulativeSum<T>;                                                   \
  HOW template struct remat::ops::Dora<T>;                                                            \
  HOW template struct remat::ops::DropPath<T>;                                                        \
  HOW template struct remat::ops::Dropout<T>;                                                         \
  HOW template struct remat::ops::Embedding<T>;                                                       \
  HOW template struct remat::ops::Extremum<T, false>;                                                 \
  HOW template struct remat::ops::Extremum<T, true>;                                                  \
  HOW template struct remat::ops::GatedActivate<T>;                                                   \
  HOW template struct remat::ops::Gather<T>;                                                          \
  HOW template struct remat::ops::GroupedMatmul<T>;                                                   \
  HOW template struct remat::ops::Jitter<T>;                                                          \
  HOW template struct remat::ops::KlDivergence<T>;                                                    \
  HOW template struct remat::ops::Linear<T>;                                                          \
  HOW template struct remat::ops::LinearCrossEntropy<T>;                                              \
  HOW template struct remat::ops::LoadBalancingLoss<T>;                                               \
  HOW template struct remat::ops::LogSumExp<T>;                                                       \
  HOW template struct remat::ops::Matmul<T>;                                                          \
  HOW template struct remat::ops::Norm<T, remat::ops::LayerNormRow, false>;                           \
  HOW template struct remat::ops::Norm<T, remat::ops::LayerNormRow, true>;                            \
  HOW template struct remat::ops::Norm<T, remat::ops::RmsNormRow, false>;                             \
  HOW template struct remat::ops::Norm<T, remat::ops::RmsNormRow, true>;                              \
  HOW template struct remat::ops::OneHot<T>;                                                          \
  HOW template struct remat::ops::PairLoss<T, remat::functions::BinaryCrossEntropy<remat::Accum<T>>>; \
  HOW template struct remat::ops::PairLoss<T, remat::functions::SquaredError>;                        \
  HOW template struct remat::ops::Reduce<T>;                                                          \
  HOW template struct remat::ops::RotaryTurn<T>;                                                      \
  HOW template struct remat::ops::Route<T>;                                                           \
  HOW template struct remat::ops::RouterZLoss<T>;                                                     \
  HOW template struct remat::ops::ScatterAdd<T>;                                                      \
  HOW template struct remat::ops::Slice<T>;                                                           \
  HOW template struct remat::ops::Softmax<T, false>;                                                  \
  HOW template struct remat::ops::Softmax<T, true>;                                                   \
  HOW template struct remat::ops::SoftmaxOver<T, false>;                                              \
  HOW template struct remat::ops::SoftmaxOver<T, true>;                                               \
  HOW template struct remat::ops::TakeRows<T>;                                                        \
  HOW template struct remat::ops::TopK<T>;                                                            \
  HOW template struct remat::ops::Transpose<T>;                                                       \
  HOW template struct remat::ops::Unary<T, remat::functions::Abs>;                                    \
  HOW template struct remat::ops::Unary<T, remat::functions::Cos>;                                    \
  HOW template struct remat::ops::Unary<T, remat::functions::Exp>;                                    \
  HOW template struct remat::ops::Unary<T, remat::functions::Gelu>;                                   \
  HOW template struct remat::ops::Unary<T, remat::functions::GeluTanh>;                               \
  HOW template struct remat::ops::Unary<T, remat::functions::Log>;                                    \
  HOW template struct remat::ops::Unary<T, remat::functions::Negate>;                                 \
  HOW template struct remat::ops::Unary<T, remat::functions::Relu>;                                   \
  HOW template struct remat::ops::Unary<T, remat::functions::Sigmoid>;                                \
  HOW template struct remat::ops::Unary<T, remat::functions::Silu>;                                   \
  HOW template struct remat::ops::Unary<T, remat::functions::Sin>;                                    \
  HOW template struct remat::ops::Unary<T, remat::functions::Softplus>;                               \
  HOW template struct remat::ops::Unary<T, remat::functions::Sqrt>;                                   \
  HOW template struct remat::ops::Unary<T, remat::functions::Square>;                                 \
  HOW template struct remat::ops::Unary<T, remat::functions::Tanh>;                                   \
  HOW template struct remat::ops::Variance<T>;                                                        \
  HOW template struct remat::ops::Where<T, remat::Condition>;

// Of numbers in which sums are made, so of no bfloat16.
#define REMAT_EACH_SUM_OP(HOW, T) HOW template struct remat::ops::DoraNorms<T>;

// Of layers of T, along a skip connection of X.
#define REMAT_EACH_STREAM(HOW, T, X)                                                                                \
  HOW template remat::Var<X> remat::nn::TransformerLayer<T>::run<X>(                                                \
      const remat::Var<X>&, const remat::Var<T>*, const remat::AttentionMasks<T>&, const remat::AttentionMasks<T>&, \
      remat::nn::KeyValueCache<T>::Layer*, remat::Var<remat::Accum<T>>*) const;                                     \
  HOW template remat::Var<X> remat::nn::StackedTransformer<T>::along_stream<X>(                                     \
      const remat::Var<X>&, const remat::Var<T>*, const remat::AttentionMasks<T>&, const remat::AttentionMasks<T>&, \
      remat::nn::KeyValueCache<T>*, remat::Var<remat::Accum<T>>*) const;

#define REMAT_EACH_LAYER(HOW, T)                        \
  HOW template struct remat::nn::Dropout<T>;            \
  HOW template struct remat::nn::Embedding<T>;          \
  HOW template struct remat::nn::FeedForward<T>;        \
  HOW template struct remat::nn::LayerNorm<T>;          \
  HOW template struct remat::nn::Linear<T>;             \
  HOW template class remat::nn::Lora<T>;                \
  HOW template struct remat::nn::MultiHeadAttention<T>; \
  HOW template struct remat::nn::Norm<T>;               \
  HOW template struct remat::nn::RmsNorm<T>;            \
  HOW template struct remat::nn::RoutedFeedForward<T>;  \
  HOW template struct remat::nn::StackedTransformer<T>; \
  HOW template struct remat::nn::TransformerLayer<T>;   \
  HOW template struct remat::models::Decoder<T>;        \
  HOW template struct remat::models::Encoder<T>;        \
  HOW template struct remat::models::EncoderDecoder<T>; \
  HOW template struct remat::models::Gpt<T>;            \
  REMAT_EACH_STREAM(HOW, T, T)

// Of bfloat16 branches beside a float skip connection.
#define REMAT_EACH_SKIP_OP(HOW, T, X)                                            \
  HOW template struct remat::ops::Cast<T, X>;                                    \
  HOW template struct remat::ops::Cast<X, T>;                                    \
  HOW template struct remat::ops::SkipAdd<T, X>;                                 \
  HOW template struct remat::ops::Norm<T, remat::ops::LayerNormRow, false, X>;   \
  HOW template struct remat::ops::Norm<T, remat::ops::LayerNormRow, true, X>;    \
  HOW template struct remat::ops::Norm<T, remat::ops::LayerNormRow, true, X, X>; \
  HOW template struct remat::ops::Norm<T, remat::ops::RmsNormRow, false, X>;     \
  HOW template struct remat::ops::Norm<T, remat::ops::RmsNormRow, true, X>;      \
  HOW template struct remat::ops::Norm<T, remat::ops::RmsNormRow, true, X, X>;   \
  REMAT_EACH_STREAM(HOW, T, X)

// Of the engine, what programs call.
#define REMAT_EACH_ENTRANCE(HOW)                                                                                     \
  HOW template remat::detail::Recorded remat::detail::record<>(remat::Program&, std::shared_ptr<const remat::Op>,    \
                                                               std::span<const remat::Operand>);                     \
  HOW template void remat::detail::run_backward<>(remat::Program&, remat::SlotId, const remat::GradientHook&);       \
  HOW template std::int32_t remat::detail::open_region<>(remat::Program&, const remat::Policy&);                     \
  HOW template void remat::detail::close_region<>(remat::Program&, std::span<const remat::SlotId>);                  \
  HOW template void remat::detail::refuse_kept<>(remat::Program&, std::span<const remat::SlotId>);                   \
  HOW template void remat::detail::check_names<>(const remat::Program&);                                             \
  HOW template remat::Counted<remat::Program> remat::detail::begin_program<>(const remat::TapeOptions&);             \
  HOW template void remat::detail::delete_program<>(remat::Program*);                                                \
  HOW template void remat::Program::label_late<>(remat::SlotId);                                                     \
  HOW template void remat::Program::nothing_follows<>(remat::SlotId);                                                \
  HOW template void remat::Program::end<>();                                                                         \
  HOW template remat::SlotId remat::RecordedProgram::add_leaf<>(remat::AnyTensor, bool);                             \
  HOW template void remat::RecordedProgram::add_label<>(remat::SlotId, const std::string&);                          \
  HOW template std::int32_t remat::RecordedProgram::path_id<>(std::string_view);                                     \
  HOW template remat::SlotId remat::RecordedProgram::parameter_slot<>(const std::shared_ptr<remat::ParameterEntry>&, \
                                                                      remat::DType);                                 \
  HOW template remat::TapeStats remat::Tape::stats<>() const;                                                        \
  HOW template std::string remat::Tape::frozen_note<>() const;                                                       \
  HOW template remat::RandomStream remat::Tape::next_random_of_batch<>(const char*);                                 \
  HOW template std::vector<remat::MemorySample> remat::memory_timeline<>(const remat::Program&);                     \
  HOW template std::vector<remat::SavedResidual> remat::saved_residuals<>(remat::Tape&);                             \
  HOW template remat::Storage remat::Pool::allocate<>(std::size_t, const remat::Counted<remat::Account>&);           \
  HOW template void remat::Pool::release<>(remat::Block*);                                                           \
  HOW template void remat::MemoryLog::compact<>();                                                                   \
  HOW template std::vector<remat::MemoryBlock> remat::MemoryLog::at_peak<>() const;                                  \
  HOW template remat::Scope remat::Scope::inside<>(std::string_view) const;                                          \
  HOW template std::shared_ptr<remat::detail::RegistryState> remat::detail::new_registry_state<>(std::uint64_t);     \
  HOW template void remat::detail::fail_with<>(const remat::detail::MessagePart*, std::size_t);                      \
  HOW template void remat::detail::run_blocks<>(remat::Index, remat::Index,                                          \
                                                void (*)(void*, remat::Index, remat::Index), void*);                 \
  HOW template std::string remat::detail::text_of<>(const remat::Shape&);                                            \
  HOW template struct remat::ops::Slice<std::int32_t>;                                                               \
  HOW template std::shared_ptr<remat::ParameterEntry> remat::Scope::entry<>(                                         \
      const std::string&, remat::DType, const remat::Shape&, const remat::Initializer&, remat::Scope::Fill) const;   \
  HOW template remat::Scope remat::Scope::shared_as<>(const std::string&) const;                                     \
  HOW template void remat::LayerScope::complete<>() const;                                                           \
  HOW template std::vector<std::shared_ptr<remat::ParameterEntry>> remat::ParameterRegistry::entries<>() const;      \
  HOW template std::string remat::ParameterRegistry::near<>(const std::string&) const;                               \
  HOW template remat::Index remat::ParameterRegistry::set_frozen<>(std::string_view, bool, const char*) const;       \
  HOW template void remat::ParameterUses::begin<>(remat::ParameterUse, const std::string&);                          \
  HOW template void remat::ParameterUses::end<>(remat::ParameterUse, std::thread::id);                               \
  HOW template void remat::detail::SharedUses::check<>();                                                            \
  HOW template remat::PlannedPolicy remat::Plan::planned<>(std::string, const remat::Policy&,                        \
                                                           const std::optional<remat::Policy>&) const;               \
  HOW template void remat::Plan::make_rows<>();                                                                      \
  HOW template void remat::Plan::make_frontier<>() const;                                                            \
  HOW template const remat::CostModel& remat::CostModel::of_this_machine<>();                                        \
  HOW template remat::CostModel remat::CostModel::measured<>();                                                      \
  HOW template remat::CostModel remat::detail::calibrated<>(const std::filesystem::path&, bool);                     \
  HOW template remat::kernels::GemmChoice remat::kernels::detail::cached_choice<>(const std::filesystem::path&);     \
  HOW template remat::AnyTensor remat::ParameterEntry::numbers<>() const;                                            \
  HOW template void remat::optim::Optimizer<remat::optim::AdamW, remat::optim::AdamWConfig,                          \
                                            remat::optim::detail::AdamWRule>::update_all<>(double, double);

REMAT_EACH_ENTRANCE(extern)
REMAT_EACH_OP(extern, float)
REMAT_EACH_OP(extern, double)
REMAT_EACH_SUM_OP(extern, float)
REMAT_EACH_SUM_OP(extern, double)
REMAT_EACH_OP(extern, remat::bfloat16)
REMAT_EACH_LAYER(extern, float)
REMAT_EACH_LAYER(extern, double)
REMAT_EACH_LAYER(extern, remat::bfloat16)
REMAT_EACH_SKIP_OP(extern, remat::bfloat16, float)
