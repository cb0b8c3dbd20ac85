#pragma once
// Where berth-oci tells what went wrong: standard error, and the file that containerd, conmon and podman read
// (--log, --log-format text|json): one line each with level, msg and time.
#include <string>
#include <string_view>

namespace berth {

void OpenJournal(const std::string& path, bool json, bool debug);
void Journal(std::string_view level, std::string_view message);

}  // namespace berth
