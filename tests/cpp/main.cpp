#include <cstdio>

extern "C" int run_consumer(const char* cases);

int main(int count, char** arguments) {
  if (count == 2) return run_consumer(arguments[1]);
  std::fprintf(stderr, "usage: %s CASES\n", arguments[0]);
  return 2;
}
