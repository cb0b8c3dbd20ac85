#include <dirent.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/atomic_file.h"
#include "metrics/registry.h"

namespace berth::metrics {
namespace {

size_t OpenDescriptors() {
  DIR* dir = ::opendir("/proc/self/fd");
  if (!dir) return 0;
  size_t count = 0;
  while (const dirent* entry = ::readdir(dir)) count += entry->d_name[0] != '.';
  ::closedir(dir);
  return count - 1;  // less the one we read with
}

// Fields of /proc/self/stat after the command's closing parenthesis; [0] is field 3 (proc(5)).
std::vector<double> StatFields() {
  const auto text = ReadFile("/proc/self/stat");
  std::vector<double> out;
  if (!text) return out;
  const char* at = text->c_str() + std::min(text->rfind(") ") + 3, text->size());
  out.push_back(0);  // the state letter
  for (char* end = nullptr;; at = end) {
    const double value = std::strtod(at, &end);
    if (end == at) return out;
    out.push_back(value);
  }
}

double BootTime() {
  const auto text = ReadFile("/proc/stat");
  const size_t at = text ? text->find("\nbtime ") : std::string::npos;
  return at == std::string::npos ? 0 : std::strtod(text->c_str() + at + 7, nullptr);
}

}  // namespace

std::vector<Family> ProcessFamilies() {
  std::vector<Family> out;
  const auto add = [&](Kind kind, const char* name, const char* help, double value) {
    out.push_back({name, help, kind, {{{}, value}}});
  };
  const std::vector<double> stat = StatFields();
  const double ticks = static_cast<double>(::sysconf(_SC_CLK_TCK));
  const double page = static_cast<double>(::sysconf(_SC_PAGESIZE));
  if (stat.size() > 21) {
    static const double boot = BootTime();
    add(Kind::kCounter, "process_cpu_seconds_total", "User and system CPU time in seconds.", (stat[11] + stat[12]) / ticks);
    add(Kind::kGauge, "process_threads", "Number of threads.", stat[17]);
    add(Kind::kGauge, "process_start_time_seconds", "Start time in seconds since 1970.", boot + stat[19] / ticks);
    add(Kind::kGauge, "process_virtual_memory_bytes", "Virtual memory in bytes.", stat[20]);
    add(Kind::kGauge, "process_resident_memory_bytes", "Resident memory in bytes.", stat[21] * page);
  }
  add(Kind::kGauge, "process_open_fds", "Number of open file descriptors.", static_cast<double>(OpenDescriptors()));
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) == 0)
    add(Kind::kGauge, "process_max_fds", "Limit of open file descriptors.", static_cast<double>(limit.rlim_cur));
  return out;
}

}  // namespace berth::metrics
