// A step as a picture in time: Chrome's trace format, which Perfetto opens.
#pragma once

#include <nlohmann/json.hpp>
#include <remat/core/trace.hpp>
#include <remat/io/file.hpp>
#include <span>
#include <string>
#include <string_view>

namespace remat { inline namespace REMAT_ABI { namespace io {

/// Writes the slices, one track for each category, and a counter of live bytes. Open the file in ui.perfetto.dev.
inline void save_trace(std::span<const TraceSlice> slices, const std::string& path) {
  nlohmann::ordered_json events = nlohmann::ordered_json::array();
  const auto track = [](std::string_view category) { return category == "forward" ? 1 : category == "replay" ? 2 : 3; };
  for (const char* category : {"forward", "replay", "backward"})
    events.push_back(
        {{"ph", "M"}, {"name", "thread_name"}, {"pid", 1}, {"tid", track(category)}, {"args", {{"name", category}}}});
  for (const TraceSlice& slice : slices) {
    events.push_back({{"ph", "X"},
                      {"name", slice.name},
                      {"cat", slice.category},
                      {"pid", 1},
                      {"tid", track(slice.category)},
                      {"ts", 1e6 * slice.start},
                      {"dur", 1e6 * (slice.end - slice.start)},
                      {"args", {{"layer", slice.layer_path}}}});
    events.push_back({{"ph", "C"},
                      {"name", "live bytes"},
                      {"pid", 1},
                      {"ts", 1e6 * slice.start},
                      {"args", {{"bytes", slice.live_bytes}}}});
  }
  ReplacedFile file(path);
  file.file().write(nlohmann::ordered_json{{"traceEvents", events}, {"displayTimeUnit", "ms"}}.dump());
  file.commit();
}

}}}  // namespace remat::io
