// The frame of every program: flags, errors of one line, exit codes.
#pragma once

#include <CLI/CLI.hpp>
#include <exception>
#include <iostream>
#include <type_traits>

namespace programs {

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
    std::cerr << name << ": " << error.what() << " (--help lists the flags)\n";
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
