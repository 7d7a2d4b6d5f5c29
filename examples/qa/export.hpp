// examples/qa/export.hpp: `qa export`: a model with what was trained, as a file for llama.cpp or a folder for
// transformers.
#pragma once
#include "model.hpp"

namespace qa {

struct ExportArguments : ModelArguments {
  std::string adapter, to, type, out, name, unrelated, calibrate;
};

/// The perplexity of a text that has nothing to do with what was trained.
template <class Lm> double unrelated_perplexity(const std::string& file, Lm& lm) {
  return ft::perplexity(lm, read_unrelated(file));
}

/// Says what the way out cost, with the file opened again as whoever gets it will.
template <class Lm> void say_cost(const ExportArguments& a, double before) {
  auto again = Lm::from_pretrained(a.out);
  const double after = unrelated_perplexity(a.unrelated, again);
  std::cout << ft::printed("perplexity of %s: %.3f before, %.3f in the file (%+.2f %%)\n", a.unrelated.c_str(), before,
                           after, 100 * (after / before - 1));
}

template <class Lm> void export_model(const ExportArguments& a, Lm lm) {
  if (!a.adapter.empty()) {
    for (const auto& warning : lm.load_adapter(a.adapter)) std::cerr << "warning: " << warning << '\n';
    const auto asked = lm.prompt().options();
    if (asked.form != ft::text::Form::chat)
      std::cerr
          << "note: the adapter was trained on \"Q: ...\\nA:\", and the file keeps the chat template alone: ask it "
             "so, or train with --form chat\n";
    if (!asked.unknown.empty() && (asked.sure > 0 || asked.near > -1))
      std::cerr << "note: \"" << asked.unknown << "\" in place of answers that are not sure or near enough is ftlib's "
                << "doing, and is not in the file\n";
  }
  say_notes(lm);
  const double before = a.unrelated.empty() ? 0 : unrelated_perplexity(a.unrelated, lm);
  if (a.to == "gguf") {
    ft::SaveGgufOptions options{.type = a.type.empty() ? "stored" : a.type, .name = a.name};
    ft::Importance importance;
    if (!a.calibrate.empty()) {
      importance = ft::calibrate(lm, read_unrelated(a.calibrate));
      options.importance = &importance;
      std::cout << ft::printed("calibration: %s, perplexity %.3f, %d matrices\n", a.calibrate.c_str(),
                               importance.perplexity, static_cast<int>(importance.squares.size()));
    }
    std::cout << ft::save_gguf(lm, a.out, options);
  } else if (a.to == "gguf-lora") {
    std::cout << ft::save_gguf_adapter(lm, a.out, {.type = a.type.empty() ? "f32" : a.type, .name = a.name});
  } else {
    const auto type = a.type == "f16" ? ft::DType::f16 : a.type == "bf16" ? ft::DType::bf16 : ft::DType::f32;
    lm.save_pretrained(a.out, {.type = type});
    std::cout << a.out << ": a Hugging Face folder in " << type
              << (a.adapter.empty() ? "\n" : ", the adapter merged into the weights\n");
  }
  if (!a.unrelated.empty()) say_cost<Lm>(a, before);
}

inline void add_export(CLI::App& app) {
  const auto a = std::make_shared<ExportArguments>();
  auto* c = app.add_subcommand("export", "Write the tuned model for llama.cpp or transformers");
  a->add_model_to(*c);
  c->add_option("--adapter", a->adapter,
                "a PEFT folder, as train leaves it: merged into what is written (default: none)")
      ->check(examples::not_empty)
      ->type_name("FOLDER");
  c->add_option(
       "--to", a->to,
       "gguf: one file for llama.cpp; hf: a folder for transformers; gguf-lora: the adapter alone, for llama.cpp "
       "over the base")
      ->required()
      ->check(CLI::IsMember({"gguf", "hf", "gguf-lora"}));
  c->add_option(
       "--type", a->type,
       "gguf: f32, f16, bf16, q8_0, q6_k, q5_k_m, q5_k_s, q4_k_m, q4_k_s, q5_1, q5_0, q4_1 or q4_0, or stored: "
       "each tensor as the model has it (default); gguf-lora: f32 (default) or f16; hf: f32 (default), f16 or bf16")
      ->check(examples::not_empty);
  c->add_option("--out", a->out, "the file or folder to write")
      ->required()
      ->check(examples::not_empty)
      ->type_name("PATH");
  c->add_option("--name", a->name, "what the file calls the model (default: the model's file or folder)");
  c->add_option("--unrelated", a->unrelated, "text whose perplexity is measured before and after (default: none)")
      ->check(examples::not_empty)
      ->type_name("TEXT");
  c->add_option("--calibrate", a->calibrate,
                "text by which quantisers learn which channels matter; without, all do alike (default: none)")
      ->check(examples::not_empty)
      ->type_name("TEXT");
  c->footer(
      "Example:\n  qa export --model SmolLM2-135M-Instruct.Q4_1.gguf --adapter run/adapter --to gguf --type q4_k_m "
      "--out "
      "tuned.gguf");
  c->callback([a] {
    if (a->to == "gguf-lora" && a->adapter.empty())
      throw ft::Error("--to gguf-lora: there is no adapter", "name it with --adapter.");
    if (a->to == "gguf-lora" && !a->unrelated.empty())
      throw ft::Error("--unrelated: an adapter alone has no perplexity", "leave it out, or write --to gguf.");
    if (a->to == "hf" && !a->type.empty() && a->type != "f32" && a->type != "f16" && a->type != "bf16")
      throw ft::Error("--type " + a->type + ": a folder holds f32, f16 or bf16", "give one of them.");
    if (!a->calibrate.empty() && (a->to != "gguf" || a->type.empty() || a->type == "stored"))
      throw ft::Error("--calibrate: nothing is quantised", "give --to gguf and a --type such as q4_k_m.");
    if (a->to == "hf") check_folder("--out", a->out);
    else check_output("--out", a->out);
    check_apart("--out", a->out, {a->model, a->adapter, a->unrelated, a->calibrate});
    for (const std::string& text : {a->unrelated, a->calibrate})
      if (!text.empty()) read_unrelated(text);
    if (!a->adapter.empty()) a->check_adapter(a->adapter);
    a->with_model([&](auto lm) { export_model(*a, std::move(lm)); });
  });
}

}  // namespace qa
