#pragma once
// Published ports as set elements: nfnetlink batches without text, about 5 us however many there are. A batch is
// atomic.
#include <string>
#include <vector>

#include "base/deadline.h"
#include "cni/nft/layout.h"

namespace berth::cni::nft {

// The bytes of one nfnetlink batch, numbered from `sequence`; pure. Elements of one map share a message.
struct ElementBatch {
  std::string bytes;
  uint32_t first = 0;     // sequence of the first message that is acknowledged
  uint32_t messages = 0;  // how many are
};
ElementBatch EncodePorts(const std::string& table, const std::vector<PublishedPort>& ports, bool add,
                         uint32_t sequence);
// Key and value of an element as the kernel compares them; every field padded to four bytes.
std::string PortKeyBytes(const PublishedPort& port);
std::string PortValueBytes(const PublishedPort& port);

class ElementSocket {  // thread-safe; in the namespace of the thread that opened it
 public:
  Result<void> Open();
  // Errors keep the kernel's errno in `sys`: ENOENT when table, map or (on removal) element is missing, EEXIST when the
  // key has another value already. Nothing has changed then.
  Result<void> Apply(const std::string& table, const std::vector<PublishedPort>& ports, bool add,
                     const Deadline& until);
  // Whether the chain that names the layout is there, in both families.
  Result<bool> Intact(const std::string& table, const Deadline& until);

 private:
  Result<int> Exchange(const std::string& bytes, uint32_t first, uint32_t messages,
                       const Deadline& until);  // errno or 0
  std::mutex mutex_;
  unique_fd fd_;
  uint32_t sequence_ = 1;
};

}  // namespace berth::cni::nft
