#pragma once
// What the configuration decides about exec, attach and port-forward. Filled by config/.
#include <string>

namespace berth::cri::streaming {

struct Options {
  std::string address = "127.0.0.1:0";       // where clients connect; port 0: any free one, told in the URL
  std::string tls_certificate, tls_key;      // PEM files; both empty: plain HTTP
  int sessions = 1024;                       // at once
};

}  // namespace berth::cri::streaming
