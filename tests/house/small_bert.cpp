// Writes a folder with a BERT of random weights and a tokenizer, and two texts that a few words tell apart.
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <remat/io/pretrained_bert.hpp>
#include <remat/models.hpp>
#include <string>

int main(int argc, char** argv) try {
  remat::require(argc == 3, "usage: small_bert TOKENIZER.json FOLDER");
  const std::filesystem::path folder = argv[2];
  const remat::ParameterRegistry parameters(1);
  const remat::models::Encoder<float> bert(
      parameters / "bert",
      {.vocabulary = 910, .context = 64, .num_layers = 1, .model_dims = 16, .num_heads = 2, .init_deviation = 0.2});
  remat::io::save_bert(bert, folder.string());
  std::filesystem::copy_file(argv[1], folder / "tokenizer.json", std::filesystem::copy_options::overwrite_existing);
  std::ofstream cats(folder / "cats.txt"), ships(folder / "ships.txt");
  for (int i = 0; i < 60; ++i) {
    cats << "the cat sat on the mat and said " << i << "\n%\n";
    ships << "a ship sails over the sea for " << i << " days\n%\n";
  }
} catch (const std::exception& error) {
  std::fprintf(stderr, "small_bert: %s\n", error.what());
  return 1;
}
