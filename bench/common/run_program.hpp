// The frame of every program: flags, errors of one line, exit codes.
#pragma once

#include <CLI/CLI.hpp>
#include <charconv>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <initializer_list>
#include <iostream>
#include <remat/core/error.hpp>
#include <string>
#include <system_error>
#include <type_traits>

#include "text_of.hpp"

namespace programs {

/// A number from `low` to `high`; unlike CLI::Range not NaN.
inline CLI::Validator between(double low, double high) {
  const auto check = [=](const std::string& text) {
    char* end = nullptr;
    const double value = std::strtod(text.c_str(), &end);
    const bool fits = !text.empty() && *end == '\0' && value >= low && value <= high;
    return fits ? std::string() : text + text_of(" is not a number between %g and %g", low, high);
  };
  return {check, text_of("[%g - %g]", low, high), "between"};
}

/// A number of OpenMP threads, 0 for the system's choice. Far more than any machine has would end the OpenMP library.
inline CLI::Validator threads() { return CLI::Range(0, 4096); }

/// A seed: any number that 64 bits hold. What is larger would become the largest of them.
inline CLI::Validator seed() {
  const auto check = [](const std::string& text) {
    std::uint64_t value = 0;
    const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
    const bool fits = failure == std::errc() && end == text.data() + text.size();
    return fits ? std::string() : text + " is not a whole number from 0 to 18446744073709551615";
  };
  return {check, "[0 - 2^64)", "seed"};
}

/// An `Error` for each of `flags` that is given where it has no effect; `why` says so behind its name.
inline void refuse_flags(const CLI::App& app, std::initializer_list<const char*> flags, const char* why) {
  for (const char* flag : flags) remat::require(app.count(flag) == 0, flag, ' ', why);
}

/// What was refused, in words of our own where CLI11 speaks of its inner counts and types.
inline std::string refusal(const CLI::App& app, const CLI::ParseError& error) {
  const std::string text = error.what(), flag = text.substr(0, text.find(':'));
  if (error.get_name() == "ConversionError") return text.substr(flag.size() + 2) + " cannot be read";
  if (error.get_name() != "ArgumentMismatch") return text;
  const CLI::Option* const option = app.get_option_no_throw(flag);
  if (option == nullptr || option->count() < 2) return flag + " needs a value";
  return flag + " is given " + std::to_string(option->count()) + " times; give it once";
}

/// Reads flags into `settings` by `add_options(app, settings)`, then runs `body(settings)`, or `body(settings, app)`,
/// and returns what it returns. What it throws is printed on a line and gives 1; flags that are refused give 2.
template <class Settings, class AddOptions, class Body>
int run_program(int argc, char** argv, const char* name, const char* description, Settings settings,
                AddOptions&& add_options, Body&& body) try {
  CLI::App app{description};
  app.option_defaults()->always_capture_default();
  add_options(app, settings);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help
    std::cerr << name << ": " << refusal(app, error) << " (--help lists the flags)\n";
    return 2;
  }
  if constexpr (std::is_invocable_v<Body, const Settings&, const CLI::App&>)
    return body(settings, app);
  else
    return body(settings);
} catch (const std::exception& error) {
  std::cerr << name << ": " << error.what() << '\n';
  return 1;
}

}  // namespace programs
