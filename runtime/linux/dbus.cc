#include "runtime/linux/dbus.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <charconv>
#include <cstring>

namespace berth::runtime::dbus {
namespace {

constexpr size_t kMaxMessage = 1 << 27, kMaxDepth = 32;

size_t Alignment(char kind) {
  switch (kind) {
    case 'y':
    case 'g':
    case 'v':
      return 1;
    case 'n':
    case 'q':
      return 2;
    case 'x':
    case 't':
    case 'd':
    case '(':
    case '{':
      return 8;
    default:
      return 4;
  }
}

size_t Width(char kind) {  // of basic values of fixed size; 0: not one
  switch (kind) {
    case 'y':
      return 1;
    case 'n':
    case 'q':
      return 2;
    case 'b':
    case 'i':
    case 'u':
      return 4;
    case 'x':
    case 't':
    case 'd':
      return 8;
    default:
      return 0;
  }
}

void Pad(std::string* out, size_t to) { out->resize((out->size() + to - 1) / to * to); }

void PutNumber(std::string* out, uint64_t n, size_t width) {
  Pad(out, width);
  for (size_t i = 0; i < width; ++i) out->push_back(static_cast<char>(n >> (8 * i)));
}

// The first complete type of a signature; empty: there is none.
std::string_view FirstType(std::string_view s, size_t depth = 0) {
  if (s.empty() || depth > kMaxDepth) return {};
  if (s[0] == 'a') {
    std::string_view element = FirstType(s.substr(1), depth + 1);
    return element.empty() ? element : s.substr(0, 1 + element.size());
  }
  if (s[0] == '(' || s[0] == '{') {
    const char end = s[0] == '(' ? ')' : '}';
    size_t at = 1;
    while (at < s.size() && s[at] != end) {
      std::string_view member = FirstType(s.substr(at), depth + 1);
      if (member.empty()) return {};
      at += member.size();
    }
    return at < s.size() && at > 1 ? s.substr(0, at + 1) : std::string_view();
  }
  return strchr("ybnqiuxtdsogvh", s[0]) ? s.substr(0, 1) : std::string_view();
}

class Reader {
 public:
  Reader(std::string_view bytes, bool little) : bytes_(bytes), little_(little) {}

  bool Read(std::string_view type, Value* out, size_t depth = 0) {
    if (type.empty() || depth > kMaxDepth || !Align(Alignment(type[0]))) return false;
    out->kind = type[0];
    if (type[0] == 'h') out->kind = 'u';  // index of a descriptor: we take none
    if (size_t width = Width(out->kind)) {
      if (!Number(width, &out->number)) return false;
      if (type[0] == 'd') memcpy(&out->real, &out->number, 8);
      if (type[0] == 'n') out->number = static_cast<uint64_t>(static_cast<int16_t>(out->number));
      if (type[0] == 'i') out->number = static_cast<uint64_t>(static_cast<int32_t>(out->number));
      return true;
    }
    uint64_t size = 0;
    switch (type[0]) {
      case 's':
      case 'o':
      case 'g':
        if (!Number(type[0] == 'g' ? 1 : 4, &size) || size >= bytes_.size() - at_) return false;
        out->text = bytes_.substr(at_, size);
        at_ += size + 1;
        return true;
      case 'v': {
        Value signature;
        if (!Read("g", &signature, depth + 1) || FirstType(signature.text) != signature.text) return false;
        return Read(signature.text, &out->items.emplace_back(), depth + 1);
      }
      case 'a': {
        out->element = type.substr(1);
        if (!Number(4, &size) || !Align(Alignment(type[1])) || size > bytes_.size() - at_) return false;
        const size_t end = at_ + size;
        while (at_ < end)
          if (!Read(type.substr(1), &out->items.emplace_back(), depth + 1)) return false;
        return at_ == end;
      }
      case '(':
      case '{': {
        std::string_view rest = type.substr(1, type.size() - 2);
        while (!rest.empty()) {
          std::string_view member = FirstType(rest);
          if (!Read(member, &out->items.emplace_back(), depth + 1)) return false;
          rest.remove_prefix(member.size());
        }
        return true;
      }
      default:
        return false;
    }
  }

  bool Align(size_t to) {
    size_t at = (at_ + to - 1) / to * to;
    if (at > bytes_.size()) return false;
    at_ = at;
    return true;
  }

 private:
  bool Number(size_t width, uint64_t* out) {
    if (!Align(width) || width > bytes_.size() - at_) return false;
    *out = 0;
    for (size_t i = 0; i < width; ++i)
      *out |= static_cast<uint64_t>(static_cast<uint8_t>(bytes_[at_ + i])) << (8 * (little_ ? i : width - 1 - i));
    at_ += width;
    return true;
  }

  std::string_view bytes_;
  bool little_;
  size_t at_ = 0;
};

// ---- GVariant text

class VariantText {
 public:
  explicit VariantText(std::string_view text) : text_(text) {}

  Result<Value> Whole() {
    Value v;
    bool ok = Parse("", &v, 0);
    Space();
    if (!ok || at_ != text_.size())
      return Err(Code::kInvalidArgument, "\"{}\" is not a value in GVariant's text form (near byte {})", text_, at_);
    return v;
  }

 private:
  void Space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n')) ++at_;
  }
  bool Take(char c) {
    Space();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  char Peek() {
    Space();
    return at_ < text_.size() ? text_[at_] : '\0';
  }
  std::string_view Word() {
    size_t begin = at_;
    while (at_ < text_.size() && (isalnum(static_cast<unsigned char>(text_[at_])) || strchr("+-._", text_[at_]))) ++at_;
    return text_.substr(begin, at_ - begin);
  }

  bool Quoted(std::string* out) {
    char quote = text_[at_++];
    while (at_ < text_.size() && text_[at_] != quote) {
      char c = text_[at_++];
      if (c == '\\') {
        if (at_ == text_.size()) return false;
        c = text_[at_++];
        if (c == 'n') c = '\n';
        if (c == 't') c = '\t';
      }
      out->push_back(c);
    }
    return Take(quote);
  }

  // `type`: what is expected; empty: whatever the text says.
  bool Parse(std::string type, Value* out, size_t depth) {
    if (depth > kMaxDepth) return false;
    char c = Peek();
    if (c == '@') {
      ++at_;
      size_t begin = at_;
      while (at_ < text_.size() && text_[at_] != ' ') ++at_;
      std::string given(text_.substr(begin, at_ - begin));
      if (FirstType(given) != given || (!type.empty() && type != given)) return false;
      return Parse(given, out, depth + 1);
    }
    if (c == '[') {
      ++at_;
      if (!type.empty() && type[0] != 'a') return false;
      out->kind = 'a';
      std::string element = type.empty() ? "" : type.substr(1);
      if (Take(']')) {
        out->element = element;
        return !element.empty();
      }
      do {
        if (!Parse(element, &out->items.emplace_back(), depth + 1)) return false;
        element = out->items.back().Signature();
      } while (Take(','));
      out->element = element;
      return Take(']');
    }
    if (c == '(') {
      ++at_;
      if (!type.empty() && type[0] != '(') return false;
      out->kind = '(';
      std::string_view rest = type.empty() ? std::string_view() : std::string_view(type).substr(1, type.size() - 2);
      do {
        std::string_view member = FirstType(rest);
        if (!type.empty() && member.empty()) return false;
        if (!Parse(std::string(member), &out->items.emplace_back(), depth + 1)) return false;
        rest.remove_prefix(member.size());
        if (Peek() == ')') break;
      } while (Take(',') && Peek() != ')');
      return rest.empty() && Take(')');
    }
    if (c == '<') {
      ++at_;
      if (!type.empty() && type != "v") return false;
      out->kind = 'v';
      return Parse("", &out->items.emplace_back(), depth + 1) && Take('>');
    }
    if (c == '\'' || c == '"') {
      if (!type.empty() && type != "s" && type != "o" && type != "g") return false;
      out->kind = type.empty() ? 's' : type[0];
      return Quoted(&out->text);
    }
    std::string_view word = Word();
    static constexpr std::pair<std::string_view, const char*> kTypes[] = {
        {"boolean", "b"}, {"byte", "y"},   {"int16", "n"},  {"uint16", "q"}, {"int32", "i"},      {"uint32", "u"},
        {"int64", "x"},   {"uint64", "t"}, {"double", "d"}, {"string", "s"}, {"objectpath", "o"}, {"signature", "g"}};
    for (auto [name, code] : kTypes)
      if (word == name) return (type.empty() || type == code) && Parse(code, out, depth + 1);
    if (word == "true" || word == "false") {
      if (!type.empty() && type != "b") return false;
      *out = Value::Bool(word == "true");
      return true;
    }
    return Numeric(type, word, out);
  }

  bool Numeric(const std::string& type, std::string_view word, Value* out) {
    if (word.empty()) return false;
    bool hex = word.starts_with("0x");
    if (type == "d" || (type.empty() && !hex && word.find_first_of(".eE") != std::string_view::npos)) {
      out->kind = 'd';
      std::string copy(word);
      char* end;
      out->real = strtod(copy.c_str(), &end);
      return *end == '\0';
    }
    out->kind = type.empty() ? 'i' : type[0];
    if (type.size() > 1 || !strchr("ynqiuxt", out->kind)) return false;
    const bool negative = word[0] == '-';
    if (negative || word[0] == '+') word.remove_prefix(1);
    if (hex) word.remove_prefix(2);
    uint64_t n = 0;
    auto [end, err] = std::from_chars(word.data(), word.data() + word.size(), n, hex ? 16 : 10);
    if (err != std::errc() || end != word.data() + word.size()) return false;
    const bool is_signed = strchr("nix", out->kind) != nullptr;
    const size_t bits = Width(out->kind) * 8;
    if (negative && !is_signed && n != 0) return false;
    const uint64_t most = is_signed    ? (1ULL << (bits - 1)) - (negative ? 0 : 1)
                          : bits == 64 ? UINT64_MAX
                                       : (1ULL << bits) - 1;
    if (n > most) return false;
    out->number = negative ? ~n + 1 : n;
    return true;
  }

  std::string_view text_;
  size_t at_ = 0;
};

Value Field(uint8_t code, Value v) {
  return Value::Struct({{.kind = 'y', .number = code}, Value::Variant(std::move(v))});
}

}  // namespace

std::string Value::Signature() const {
  switch (kind) {
    case 'a':
      return "a" + element;
    case '(':
    case '{': {
      std::string s(1, kind);
      for (const Value& v : items) s += v.Signature();
      return s + (kind == '(' ? ")" : "}");
    }
    default:
      return std::string(1, kind);
  }
}

void Marshal(const Value& v, std::string* out) {
  Pad(out, Alignment(v.kind));
  if (size_t width = Width(v.kind)) {
    uint64_t n = v.number;
    if (v.kind == 'd') memcpy(&n, &v.real, 8);
    PutNumber(out, n, width);
    return;
  }
  switch (v.kind) {
    case 'g':
      out->push_back(static_cast<char>(v.text.size()));
      out->append(v.text.c_str(), v.text.size() + 1);
      return;
    case 'v':
      Marshal({.kind = 'g', .text = v.items[0].Signature()}, out);
      Marshal(v.items[0], out);
      return;
    case 'a': {
      PutNumber(out, 0, 4);
      const size_t length_at = out->size() - 4;
      Pad(out, Alignment(v.element[0]));
      const size_t begin = out->size();
      for (const Value& item : v.items) Marshal(item, out);
      const size_t size = out->size() - begin;
      for (size_t i = 0; i < 4; ++i) (*out)[length_at + i] = static_cast<char>(size >> (8 * i));
      return;
    }
    case '(':
    case '{':
      for (const Value& item : v.items) Marshal(item, out);
      return;
    default:  // s o
      PutNumber(out, v.text.size(), 4);
      out->append(v.text.c_str(), v.text.size() + 1);
  }
}

Result<std::vector<Value>> Unmarshal(std::string_view bytes, std::string_view signature, bool little_endian) {
  std::vector<Value> values;
  Reader reader(bytes, little_endian);
  for (std::string_view rest = signature; !rest.empty();) {
    std::string_view type = FirstType(rest);
    if (type.empty() || !reader.Read(type, &values.emplace_back()))
      return Err(Code::kInvalidArgument, "a D-Bus message is not of signature \"{}\"", signature);
    rest.remove_prefix(type.size());
  }
  return values;
}

Result<Value> ParseVariantText(std::string_view text) { return VariantText(text).Whole(); }

std::string Encode(const Message& m) {
  std::string body, signature;
  for (const Value& v : m.body) {
    signature += v.Signature();
    Marshal(v, &body);
  }
  std::vector<Value> fields;
  auto add = [&](uint8_t code, char kind, const std::string& text) {
    if (!text.empty()) fields.push_back(Field(code, {.kind = kind, .text = text}));
  };
  add(1, 'o', m.path);
  add(2, 's', m.interface);
  add(3, 's', m.member);
  add(4, 's', m.error_name);
  if (m.reply_serial) fields.push_back(Field(5, Value::U32(m.reply_serial)));
  add(6, 's', m.destination);
  add(8, 'g', signature);
  std::string out = {'l', static_cast<char>(m.type), 0, 1};
  PutNumber(&out, body.size(), 4);
  PutNumber(&out, m.serial, 4);
  Marshal(Value::Array("(yv)", std::move(fields)), &out);
  Pad(&out, 8);
  return out + body;
}

Result<Message> Decode(std::string_view bytes, size_t* used) {
  *used = 0;
  if (bytes.size() < 16) return Message{};
  const bool little = bytes[0] == 'l';
  if (!little && bytes[0] != 'B') return Err(Code::kInvalidArgument, "not a D-Bus message");
  auto head = TRY(Unmarshal(bytes.substr(4, 12), "uuu", little));
  const uint64_t fields = head[2].number, body = head[0].number, start = (16 + fields + 7) / 8 * 8;
  if (fields > kMaxMessage || body > kMaxMessage) return Err(Code::kInvalidArgument, "a D-Bus message is too large");
  if (bytes.size() < start + body) return Message{};
  Message m;
  m.type = static_cast<uint8_t>(bytes[1]);
  m.serial = static_cast<uint32_t>(head[1].number);
  // Alignment counts from the message's beginning: read over the fixed part.
  auto whole = TRY(Unmarshal(bytes.substr(0, 16 + fields), "yyyyuua(yv)", little));
  for (const Value& field : whole[6].items) {
    const Value& value = field.items[1].items[0];
    switch (field.items[0].number) {
      case 1:
        m.path = value.text;
        break;
      case 2:
        m.interface = value.text;
        break;
      case 3:
        m.member = value.text;
        break;
      case 4:
        m.error_name = value.text;
        break;
      case 5:
        m.reply_serial = static_cast<uint32_t>(value.number);
        break;
      case 6:
        m.destination = value.text;
        break;
      case 8:
        m.signature = value.text;
        break;
      default:
        break;
    }
  }
  m.body = TRY(Unmarshal(bytes.substr(start, body), m.signature, little));
  *used = start + body;
  return m;
}

Result<void> Connection::Send(std::string_view bytes, const Deadline& until) {
  while (!bytes.empty()) {
    ssize_t n = ::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n > 0) {
      bytes.remove_prefix(static_cast<size_t>(n));
    } else if (errno == EAGAIN) {
      TRY(until.WaitFor(socket_.get(), POLLOUT, "systemd to read"));
    } else if (errno != EINTR) {
      return SysErr("send to systemd");
    }
  }
  return {};
}

Result<Connection> Connection::Open(const std::string& path, bool bus, const Deadline& until) {
  Connection c;
  c.bus_ = bus;
  c.socket_.reset(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return Err(Code::kInvalidArgument, "{}: longer than 107 bytes", path);
  memcpy(address.sun_path, path.c_str(), path.size());
  if (!c.socket_ || ::connect(c.socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) < 0)
    return SysErr("connect to {}", path);
  // Who we are is what the socket says: an empty identity is right in a user namespace too.
  using namespace std::string_view_literals;
  TRY(c.Send("\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n"sv, until));
  for (bool ok = false; !ok;) {
    size_t end;
    while ((end = c.buffer_.find("\r\n")) == std::string::npos) {
      char bytes[512];
      ssize_t n = ::recv(c.socket_.get(), bytes, sizeof bytes, MSG_DONTWAIT);
      if (n > 0) {
        c.buffer_.append(bytes, static_cast<size_t>(n));
      } else if (n == 0) {
        return Err(Code::kPermissionDenied, "{}: hung up during authentication", path);
      } else if (errno == EAGAIN) {
        TRY(until.WaitFor(c.socket_.get(), POLLIN, "an answer of " + path));
      } else if (errno != EINTR) {
        return SysErr("read from {}", path);
      }
    }
    std::string line = c.buffer_.substr(0, end);
    c.buffer_.erase(0, end + 2);
    if (line.starts_with("REJECTED") || line.starts_with("ERROR"))
      return Err(Code::kPermissionDenied, "{}: refused: {}", path, line);
    ok = line.starts_with("OK");
  }
  if (bus)
    TRY_CTX(c.Call({.path = "/org/freedesktop/DBus",
                    .interface = "org.freedesktop.DBus",
                    .member = "Hello",
                    .destination = "org.freedesktop.DBus"},
                   until),
            "{}", path);
  return c;
}

Result<Message> Connection::Receive(const Deadline& until) {
  for (;;) {
    size_t used;
    Message m = TRY(Decode(buffer_, &used));
    if (used) {
      buffer_.erase(0, used);
      return m;
    }
    char bytes[8192];
    ssize_t n = ::recv(socket_.get(), bytes, sizeof bytes, MSG_DONTWAIT);
    if (n > 0)
      buffer_.append(bytes, static_cast<size_t>(n));
    else if (n == 0)
      return Err(Code::kUnavailable, "systemd closed the connection");
    else if (errno == EAGAIN)
      TRY(until.WaitFor(socket_.get(), POLLIN, "an answer of systemd"));
    else if (errno != EINTR)
      return SysErr("read from systemd");
  }
}

Result<std::vector<Value>> Connection::Call(Message call, const Deadline& until) {
  call.type = Message::kCall;
  call.serial = ++serial_;
  TRY(Send(Encode(call), until));
  for (;;) {
    Message m = TRY(Receive(until));
    if (m.type == Message::kSignal) signals_.push_back(std::move(m));
    if (m.reply_serial != call.serial) continue;
    if (m.type == Message::kReturn) return std::move(m.body);
    if (m.type != Message::kError) continue;
    std::string text = !m.body.empty() && m.body[0].kind == 's' ? m.body[0].text : "";
    Code code = m.error_name.ends_with("AccessDenied") || m.error_name.ends_with("AuthenticationRequired")
                    ? Code::kPermissionDenied
                : m.error_name.ends_with("NoSuchUnit")  ? Code::kNotFound
                : m.error_name.ends_with("UnitExists")  ? Code::kAlreadyExists
                : m.error_name.ends_with("InvalidArgs") ? Code::kInvalidArgument
                                                        : Code::kFailedPrecondition;
    return Err(code, "systemd: {}: {} [{}]", call.member, text, m.error_name);
  }
}

Result<Message> Connection::NextSignal(const Deadline& until) {
  if (!signals_.empty()) {
    Message m = std::move(signals_.front());
    signals_.erase(signals_.begin());
    return m;
  }
  for (;;) {
    Message m = TRY(Receive(until));
    if (m.type == Message::kSignal) return m;
  }
}

bool IsError(const Error& error, std::string_view name) { return error.what.ends_with(fmt::format("[{}]", name)); }

}  // namespace berth::runtime::dbus
