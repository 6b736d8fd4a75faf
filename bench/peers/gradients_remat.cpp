// Our side of `./run bench bfloat16-error`: loss and gradients of one GPT, of weights and tokens that are given in
// files.
#include <fstream>
#include <iomanip>
#include <iostream>
#include <remat/data/batches.hpp>
#include <remat/io.hpp>
#include <remat/models.hpp>
#include <remat/remat.hpp>
#include <string>
#include <vector>

#include "../model_options.hpp"

namespace {

struct Settings {
  int layers = 4, dims = 64, heads = 4, context = 64, batch = 4, vocabulary = 256;
  std::string weights, tokens, gradients, dtype = "bfloat16", skip_stream = "accum";
};

/// The first and the last batch * context of the file's batch * context + 1 tokens.
remat::data::Batch read_batch(const Settings& s) {
  const remat::Index size = remat::Index{s.batch} * s.context;
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(size) + 1);
  std::ifstream file(s.tokens, std::ios::binary);
  file.read(reinterpret_cast<char*>(tokens.data()), static_cast<std::streamsize>(4 * tokens.size()));
  remat::require(file.good(), "--tokens: ", s.tokens, " holds fewer than ", tokens.size(), " tokens");
  const auto part = [&](std::size_t at) {
    return remat::Tensor<std::int32_t>({s.batch, s.context},
                                       std::span(tokens).subspan(at, static_cast<std::size_t>(size)));
  };
  return {part(0), part(1)};
}

template <class T>
void write_gradients(const Settings& s) {
  using remat::nn::SkipStream;
  remat::ParameterRegistry parameters;
  const remat::models::Gpt<T> gpt(parameters / "gpt",
                                  {.vocabulary = s.vocabulary,
                                   .context = s.context,
                                   .num_layers = s.layers,
                                   .model_dims = s.dims,
                                   .num_heads = s.heads,
                                   .skip_stream = s.skip_stream == "accum" ? SkipStream::accum : SkipStream::compute});
  remat::io::load_safetensors(parameters, s.weights);
  remat::Tape tape;
  const auto loss = gpt.loss(tape, read_batch(s));
  tape.backward(loss);
  for (const auto& entry : parameters.entries()) {  // a file of weights, with gradients for values
    const remat::Parameter<remat::Accum<T>> parameter(entry);
    parameter.set_value(parameter.grad().copy());
  }
  remat::io::save_safetensors(parameters, s.gradients);
  std::cout << "{\"loss\": " << std::setprecision(17) << static_cast<double>(loss.item()) << "}" << std::endl;
}

void add_options(CLI::App& app, Settings& s) {
  bench::add_model_options(app, s);
  app.add_option("--weights", s.weights, "file of safetensors to read")->required()->check(CLI::ExistingFile);
  app.add_option("--tokens", s.tokens, "file of int32")->required()->check(CLI::ExistingFile);
  app.add_option("--gradients", s.gradients, "file of safetensors to write")->required();
  app.add_option("--dtype", s.dtype, "to compute in")->check(CLI::IsMember({"float32", "bfloat16"}));
  app.add_option("--skip-stream", s.skip_stream, "its type in bfloat16")->check(CLI::IsMember({"accum", "compute"}));
}

}  // namespace

int main(int argc, char** argv) {
  return programs::run_program(argc, argv, "gradients_remat", "Writes the gradients of one step of a GPT.", Settings(),
                               add_options, [](const Settings& s) {
                                 s.dtype == "bfloat16" ? write_gradients<remat::bfloat16>(s)
                                                       : write_gradients<float>(s);
                                 return 0;
                               });
}
