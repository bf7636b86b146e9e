// Choices made by variables of the environment.
#pragma once
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <optional>
#include <stdexcept>
#include <string>

namespace crossd_ops {

// Which of `names` the variable has, from 0 on; none where it is unset or empty. Any other value is refused: it would
// silently choose what nobody asked for.
inline std::optional<int> chosen_in_environment(const char* variable, std::initializer_list<const char*> names) {
  const char* value = std::getenv(variable);
  if (!value || !*value) return std::nullopt;
  std::string list;
  int position = 0;
  for (const char* name : names) {
    if (std::strcmp(name, value) == 0) return position;
    list += position == 0 ? "" : position + 1 == static_cast<int>(names.size()) ? " or " : ", ";
    list += name;
    ++position;
  }
  throw std::invalid_argument(std::string(variable) + ": expected " + list + " in the environment, got " + value);
}

}  // namespace crossd_ops
