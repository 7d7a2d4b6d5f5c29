// src/text.cpp: tokenizers, records and data sets, generation, evaluation, CausalLM.
#include <ftlib/text/causal_lm.inl.hpp>
#include <ftlib/text/chat.inl.hpp>
#include <ftlib/text/dataset.inl.hpp>
#include <ftlib/text/evaluate.inl.hpp>
#include <ftlib/text/generate.inl.hpp>
#include <ftlib/text/jinja.inl.hpp>
#include <ftlib/text/keep.inl.hpp>
#include <ftlib/text/learned_questions.inl.hpp>
#include <ftlib/text/prefer.inl.hpp>
#include <ftlib/text/prompt.inl.hpp>
#include <ftlib/text/records.inl.hpp>
#include <ftlib/text/scores.inl.hpp>
#include <ftlib/text/text_encoder.inl.hpp>
#include <ftlib/text/tokenizer.inl.hpp>
#include <ftlib/text/tokenizer_ranks.inl.hpp>
#include <ftlib/text/tokenizer_sentencepiece.inl.hpp>
#include <ftlib/text/tokenizer_spec.inl.hpp>

namespace ft::inline FTLIB_ABI {
template class TokenGenerator<float, Cpu>;
template class TextStream<float, Cpu>;
template class CausalLM<float, Cpu>;
template class TextEncoder<float, Cpu>;
template Evaluation evaluate(CausalLM<float, Cpu>&, const std::vector<text::Record>&, const EvaluateOptions&);
template double perplexity(CausalLM<float, Cpu>&, std::string_view, int64_t, Communicator*);
template class Keeping<float, Cpu>;
template std::vector<text::Record> write_texts(CausalLM<float, Cpu>&, const std::vector<std::string>&,
                                               const WriteOptions&);
template class Preferring<float, Cpu>;
template PreferenceReport evaluate_preferences(CausalLM<float, Cpu>&, const PreferenceData&, const PreferenceOptions&,
                                               const StopToken&, Communicator*);
}  // namespace ft::inline FTLIB_ABI
