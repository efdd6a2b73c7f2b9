// Reading of a tokenizer.json with errors that name the place. Not here: what the fields mean (tokenizer_bpe_spec.cpp).
#pragma once

#include <algorithm>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>

#include "lib/base/error.h"
#include "lib/io/tokenizer_bpe_spec.h"

namespace moe {

// An object of the file. Every accessor is Error 65 where it does not find what it should.
class JsonPlace {
 public:
  JsonPlace(const nlohmann::json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object.is_object()) refuse("expected an object, found " + std::string(object.type_name()));
  }
  [[noreturn]] void refuse(const std::string& what, const std::string& hint = "") const {
    throw Error(Exit::kBadInput, where_ + ": " + what, hint);
  }
  // Other keys than these are refused by name.
  void only(std::initializer_list<const char*> keys) const {
    for (const auto& [key, value] : object_.items())
      if (std::find(keys.begin(), keys.end(), key) == keys.end())
        refuse("key '" + key.substr(0, 80) + "' is not known", "it may change the ids, so it is not passed over");
  }
  bool has(const char* key) const { return object_.contains(key) && !object_[key].is_null(); }
  const nlohmann::json& at(const char* key) const {
    if (!object_.contains(key)) refuse("expected the key '" + std::string(key) + "', found none");
    return object_[key];
  }
  JsonPlace object(const char* key) const { return {at(key), where_ + "." + key}; }
  JsonPlace element(const nlohmann::json& list, std::size_t i, const char* name) const {
    return {list[i], where_ + "." + name + "[" + std::to_string(i) + "]"};
  }
  const nlohmann::json& array(const char* key) const {
    if (!at(key).is_array()) refuse(std::string(key) + ": expected a list, found " + at(key).type_name());
    return at(key);
  }
  std::string text(const char* key) const {
    if (!at(key).is_string()) refuse(std::string(key) + ": expected text, found " + at(key).type_name());
    return at(key).get<std::string>();
  }
  bool flag(const char* key) const {
    if (!at(key).is_boolean()) refuse(std::string(key) + ": expected true or false, found " + at(key).type_name());
    return at(key).get<bool>();
  }
  bool flag_or(const char* key, bool missing) const { return has(key) ? flag(key) : missing; }
  // An option that must be absent, null, false, 0 or "".
  void must_be_off(const char* key) const {
    if (!has(key)) return;
    const nlohmann::json& v = at(key);
    if (v == nlohmann::json(false) || v == nlohmann::json("") || (v.is_number() && v.get<double>() == 0)) return;
    refuse(std::string(key) + ": expected none, found " + v.dump(-1, ' ', true).substr(0, 80), "this is not supported");
  }
  const std::string& where() const { return where_; }
  const nlohmann::json& json() const { return object_; }

 private:
  const nlohmann::json& object_;
  std::string where_;
};

// The vocabulary, the merges and the tokens beside them (tokenizer_bpe_vocab.cpp).
void parse_bpe_model(const JsonPlace& model, BpeSpec& spec);
void parse_bpe_added_tokens(const JsonPlace& root, BpeSpec& spec);

}  // namespace moe
