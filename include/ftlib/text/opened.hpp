// text/opened.hpp: a checkpoint's model and its tokenizer, opened together.
#pragma once
#include <ftlib/models/kit/registry.hpp>  // Checkpoint, make_language_model
#include <ftlib/text/tokenizer.hpp>       // Tokenizer

#include <filesystem>  // std::filesystem::path
#include <memory>      // std::shared_ptr
#include <utility>     // std::pair

namespace ft::inline FTLIB_ABI::detail {

/// Throws Error where the model has no row for a token that every text needs.
[[gnu::cold]] FTLIB_INLINE void check_rows(const Tokenizer& tokenizer, int64_t rows, const std::string& file) {
  for (const auto& [id, what] :
       {std::pair{tokenizer.eos(), "ends"}, std::pair{tokenizer.add_bos() ? tokenizer.bos() : -1, "begins"}})
    if (id >= rows)
      throw Error(str(file, ": the tokenizer ", what, " a text with token ", id, ", ", quote(tokenizer.token(id)),
                      ", the model's embedding has ", rows, " rows"),
                  "the tokenizer is another model's, or the embedding was not enlarged for tokens that were added.",
                  ErrorKind::bad_file);
}

/// The tokenizer is null where a folder has none.
template <Scalar T, Device D>
[[gnu::cold]] std::pair<std::shared_ptr<LanguageModel<T, D>>, std::shared_ptr<const Tokenizer>> opened(
    Context<D>& ctx, const std::filesystem::path& path, const StopToken& stop = {}) {
  return reading_file([&] {
    Checkpoint checkpoint = Checkpoint::open(path);
    checkpoint.stop = stop;
    std::shared_ptr<LanguageModel<T, D>> model = make_language_model<T>(ctx, checkpoint);
    if (stop.stop_requested()) throw Interrupted(path.string() + ": opening it was stopped by the host");
    std::shared_ptr<const Tokenizer> tokenizer;
    if (checkpoint.gguf) {
      tokenizer = std::make_shared<Tokenizer>(Tokenizer::from_gguf(*checkpoint.gguf));
    } else if (auto spec = tokenizer_spec_from_folder(path)) {
      tokenizer = std::make_shared<Tokenizer>(*std::move(spec));
    } else if (const auto beside = path / ".." / "tokenizer"; is_folder(beside)) {  // as diffusers lays out a pipeline
      if (auto of_pipeline = tokenizer_spec_from_folder(beside))
        tokenizer = std::make_shared<Tokenizer>(*std::move(of_pipeline));
    }
    if (tokenizer) check_rows(*tokenizer, model->info().vocab_size, path.string());
    return std::pair(std::move(model), std::move(tokenizer));
  });
}

}  // namespace ft::inline FTLIB_ABI::detail
