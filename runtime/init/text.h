#pragma once
// Sentences without a heap: a fixed buffer that drops what does not fit.
#include <cstddef>
#include <cstring>

namespace berth::init {

class Text {
 public:
  Text(char* buffer, size_t size) : at_(buffer), left_(size) { *at_ = 0; }
  Text& operator<<(const char* s) {
    for (; s && *s && left_ > 1; ++s, --left_) *at_++ = *s;
    *at_ = 0;
    return *this;
  }
  Text& operator<<(unsigned long n) {
    char digits[24];
    char* p = digits + sizeof digits - 1;
    *p = 0;
    do *--p = static_cast<char>('0' + n % 10);
    while (n /= 10);
    return *this << p;
  }
  Text& operator<<(unsigned n) { return *this << static_cast<unsigned long>(n); }
  Text& operator<<(int n) {
    if (n < 0) *this << "-";
    return *this << static_cast<unsigned long>(n < 0 ? -static_cast<long>(n) : n);
  }

 private:
  char* at_;
  size_t left_;
};

template <size_t N>
struct Line {
  char bytes[N];
  Text text{bytes, N};
};

}  // namespace berth::init
