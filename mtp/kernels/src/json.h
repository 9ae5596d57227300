// A strict reader of JSON (RFC 8259) for the headers of model files; anything else is an error.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <locale>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace mtp {

struct Json {
  enum Kind { kNull, kBoolean, kNumber, kString, kArray, kObject };
  Kind kind = kNull;
  std::string text;  // of a string, decoded; of a number or a boolean, as written
  std::vector<std::string> keys;  // of an object
  std::vector<Json> items;        // of an array, or the values of an object

  const Json* find(const std::string& key) const {
    for (size_t i = 0; i < keys.size(); i++)
      if (keys[i] == key) return &items[i];
    return nullptr;
  }

  const Json& at(const std::string& key) const {
    const Json* found = find(key);
    if (!found) throw std::runtime_error("its header has no '" + key + "'");
    return *found;
  }

  const std::string& string() const { return checked(kString, "a string").text; }
  const std::vector<Json>& array() const { return checked(kArray, "a list").items; }

  double number() const {
    checked(kNumber, "a number");
    std::istringstream stream(text);
    stream.imbue(std::locale::classic());  // a program may have set a decimal comma
    double value;
    if (!(stream >> value)) throw std::runtime_error("a number of its header is out of range");
    return value;
  }

  bool boolean() const { return checked(kBoolean, "a true or false").text == "true"; }

  int64_t integer() const {
    checked(kNumber, "a number");
    if (text.size() > 18 || text.find_first_of(".eE") != std::string::npos)
      throw std::runtime_error("its header has " + text.substr(0, 40) + " in place of an integer");
    return std::strtoll(text.c_str(), nullptr, 10);
  }

  std::vector<int64_t> integers() const {
    std::vector<int64_t> values;
    for (const Json& item : array()) values.push_back(item.integer());
    return values;
  }

 private:
  const Json& checked(Kind wanted, const char* name) const {
    if (kind != wanted) throw std::runtime_error(std::string("its header lacks ") + name);
    return *this;
  }
};

class JsonReader {
 public:
  static Json read(const std::string& text) {
    JsonReader reader(text);
    Json value = reader.value();
    reader.skip();
    if (reader.at_ != text.size()) reader.fail();
    return value;
  }

 private:
  static constexpr int kDepth = 100;
  const std::string& text_;
  size_t at_ = 0;
  int depth_ = 0;

  explicit JsonReader(const std::string& text) : text_(text) {}

  [[noreturn]] void fail() const {
    throw std::runtime_error("its header is not JSON at character " + std::to_string(at_));
  }

  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

  void skip() {
    while (at_ < text_.size() && std::string(" \t\r\n").find(text_[at_]) != std::string::npos) at_++;
  }

  void expect(char c) {
    if (at_ >= text_.size() || text_[at_] != c) fail();
    at_++;
  }

  void word(const char* expected) {
    for (; *expected; expected++) expect(*expected);
  }

  Json value() {
    skip();
    Json out;
    switch (peek()) {
      case '{': object(out); break;
      case '[': array(out); break;
      case '"': out.kind = Json::kString; out.text = string(); break;
      case 't': out.kind = Json::kBoolean; word("true"); out.text = "true"; break;
      case 'f': out.kind = Json::kBoolean; word("false"); out.text = "false"; break;
      case 'n': word("null"); break;
      default: out.kind = Json::kNumber; out.text = number();
    }
    return out;
  }

  void object(Json& out) {
    out.kind = Json::kObject;
    std::set<std::string> seen;
    open('{');
    for (bool first = true; !closed('}', first); first = false) {
      if (peek() != '"') fail();
      out.keys.push_back(string());
      if (!seen.insert(out.keys.back()).second) fail();  // a key twice
      skip();
      expect(':');
      out.items.push_back(value());
    }
  }

  void array(Json& out) {
    out.kind = Json::kArray;
    open('[');
    for (bool first = true; !closed(']', first); first = false) out.items.push_back(value());
  }

  void open(char c) {
    expect(c);
    if (++depth_ > kDepth) fail();
  }

  // Whether the list ends here; if not, its comma has been read.
  bool closed(char c, bool first) {
    skip();
    if (peek() == c) {
      at_++;
      depth_--;
      return true;
    }
    if (!first) expect(',');
    skip();
    return false;
  }

  void digits(std::string& out) {
    if (peek() < '0' || peek() > '9') fail();
    while (peek() >= '0' && peek() <= '9') out += text_[at_++];
  }

  std::string number() {
    std::string out;
    if (peek() == '-') out += text_[at_++];
    if (peek() == '0') out += text_[at_++];
    else digits(out);
    if (peek() == '.') {
      out += text_[at_++];
      digits(out);
    }
    if (peek() == 'e' || peek() == 'E') {
      out += text_[at_++];
      if (peek() == '+' || peek() == '-') out += text_[at_++];
      digits(out);
    }
    return out;
  }

  std::string string() {
    std::string out;
    expect('"');
    while (peek() != '"') {
      if (at_ >= text_.size() || static_cast<unsigned char>(text_[at_]) < 0x20) fail();
      if (text_[at_] != '\\') out += text_[at_++];
      else escape(out);
    }
    at_++;
    return out;
  }

  void escape(std::string& out) {
    at_++;
    const std::string names = "\"\\/bfnrt", values = "\"\\/\b\f\n\r\t";
    const char c = peek();
    const size_t known = names.find(c);
    if (c && known != std::string::npos) {
      out += values[known];
      at_++;
      return;
    }
    expect('u');
    uint32_t code = hexadecimal();
    if (code >= 0xD800 && code < 0xDC00) {
      word("\\u");
      const uint32_t low = hexadecimal();
      if (low < 0xDC00 || low > 0xDFFF) fail();
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    } else if (code >= 0xDC00 && code <= 0xDFFF) {
      fail();
    }
    append_utf8(out, code);
  }

  uint32_t hexadecimal() {
    uint32_t code = 0;
    for (int i = 0; i < 4; i++, at_++) {
      const char c = peek();
      if (c >= '0' && c <= '9') code = 16 * code + uint32_t(c - '0');
      else if (c >= 'a' && c <= 'f') code = 16 * code + uint32_t(c - 'a') + 10;
      else if (c >= 'A' && c <= 'F') code = 16 * code + uint32_t(c - 'A') + 10;
      else fail();
    }
    return code;
  }

  static void append_utf8(std::string& out, uint32_t code) {
    if (code < 0x80) {
      out += char(code);
      return;
    }
    const int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    out += char((0xF80 >> more & 0xFF) | code >> 6 * more);  // 0xC0, 0xE0, 0xF0
    for (int k = more - 1; k >= 0; k--) out += char(0x80 | (code >> 6 * k & 0x3F));
  }
};

}  // namespace mtp
