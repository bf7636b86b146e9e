// Runs a model that AOTInductor compiled, without Python: reads inputs that torch.save wrote, writes the outputs.
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/csrc/jit/serialization/pickle.h>

#include <cstdio>
#include <exception>
#include <fstream>
#include <iterator>
#include <vector>

int main(int count, char** arguments) {
  if (count != 4) {
    std::fprintf(stderr, "usage: %s PACKAGE INPUTS OUTPUTS\n", arguments[0]);
    return 2;
  }
  try {
    std::ifstream file(arguments[2], std::ios::binary);
    const std::vector<char> bytes(std::istreambuf_iterator<char>(file), {});
    torch::inductor::AOTIModelPackageLoader model(arguments[1]);
    std::vector<c10::IValue> outputs;
    const c10::IValue inputs = torch::jit::pickle_load(bytes);
    for (const c10::IValue& input : inputs.toListRef()) outputs.push_back(model.run({input.toTensor()}).at(0));
    const std::vector<char> result = torch::jit::pickle_save(c10::ivalue::Tuple::create(outputs));
    std::ofstream(arguments[3], std::ios::binary).write(result.data(), static_cast<std::streamsize>(result.size()));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "ERROR: %s\n", error.what());
    return 1;
  }
  return 0;
}
