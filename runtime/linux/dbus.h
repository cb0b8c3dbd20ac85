#pragma once
// As much of D-Bus as a runtime needs to speak to systemd: method calls and signals over one stream socket. By hand,
// because berth-oci is a static program and libsystemd alone would make every one of its starts 1.5 ms dearer.
// Source: the D-Bus specification 0.42 (message format, EXTERNAL authentication).
#include <string>
#include <string_view>
#include <vector>

#include "base/deadline.h"
#include "base/error.h"
#include "base/unique_fd.h"

namespace berth::runtime::dbus {

// One value with its type. Containers hold values: 'a' elements, '(' members, '{' key and value, 'v' one value.
struct Value {
  char kind = 's';      // y b n q i u x t d s o g a ( { v
  uint64_t number = 0;  // integers and booleans, signed ones as two's complement
  double real = 0;      // d
  std::string text;     // s o g
  std::string element;  // a: signature of its elements
  std::vector<Value> items;

  static Value Bool(bool b) { return {.kind = 'b', .number = b}; }
  static Value U32(uint32_t n) { return {.kind = 'u', .number = n}; }
  static Value U64(uint64_t n) { return {.kind = 't', .number = n}; }
  static Value Text(std::string s) { return {.kind = 's', .text = std::move(s)}; }
  static Value Array(std::string of, std::vector<Value> items) {
    return {.kind = 'a', .element = std::move(of), .items = std::move(items)};
  }
  static Value Struct(std::vector<Value> items) { return {.kind = '(', .items = std::move(items)}; }
  static Value Variant(Value v) { return {.kind = 'v', .items = {std::move(v)}}; }
  std::string Signature() const;
};

// Little-endian bytes; alignment counts from the beginning of `out`.
void Marshal(const Value& value, std::string* out);
// kInvalidArgument when the bytes are not what the signature says: too short, nested too deep, arrays out of bounds.
Result<std::vector<Value>> Unmarshal(std::string_view bytes, std::string_view signature, bool little_endian = true);

// GVariant text as systemd-run and the annotations org.systemd.property.* write it: true, 5, uint64 5, 'text', [1, 2],
// @as [], ('a', 1). Whole input or kInvalidArgument.
Result<Value> ParseVariantText(std::string_view text);

struct Message {
  enum Type : uint8_t { kCall = 1, kReturn = 2, kError = 3, kSignal = 4 };
  uint8_t type = kCall;
  uint32_t serial = 0, reply_serial = 0;
  std::string path, interface, member, destination, error_name, signature;
  std::vector<Value> body;
};
std::string Encode(const Message& message);
// *used: bytes of the first whole message of `bytes`; 0: there is none yet.
Result<Message> Decode(std::string_view bytes, size_t* used);

class Connection {  // one thread
 public:
  // Path of an AF_UNIX stream socket. bus: a message bus (says Hello), else a peer such as systemd's private socket.
  static Result<Connection> Open(const std::string& socket_path, bool bus, const Deadline& until);
  // Waits for the answer; signals that arrive meanwhile are kept. An error answer becomes an Error whose text ends with
  // the D-Bus error's name in brackets; IsError looks for it.
  Result<std::vector<Value>> Call(Message call, const Deadline& until);
  Result<Message> NextSignal(const Deadline& until);
  bool is_bus() const { return bus_; }

 private:
  Result<void> Send(std::string_view bytes, const Deadline& until);
  Result<Message> Receive(const Deadline& until);
  unique_fd socket_;
  bool bus_ = false;
  uint32_t serial_ = 0;
  std::string buffer_;
  std::vector<Message> signals_;
};
bool IsError(const Error& error, std::string_view name);  // "org.freedesktop.systemd1.NoSuchUnit"

}  // namespace berth::runtime::dbus
