// tests/text/prompt.cpp: one place that says how a model is asked, in both forms.
#include "../scratch.hpp"

#include <ftlib/io/atomic_file.hpp>
#include <ftlib/io/json.hpp>
#include <ftlib/text/dataset.hpp>
#include <ftlib/text/prompt.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>

using namespace ft;
using namespace ft::text;

namespace {
const std::filesystem::path prompt_data = std::filesystem::path(FTLIB_TEST_DATA) / "tokenizer";
std::string chat_template(const char* name) {
  return read_file(std::filesystem::path(FTLIB_TEST_DATA) / "chat" / name, 1 << 20);
}
Tokenizer gemma_tokenizer() {
  const Json config{{"bos_token", "<bos>"},
                    {"eos_token", "<eos>"},
                    {"add_bos_token", true},
                    {"chat_template", chat_template("folded.jinja")}};
  return Tokenizer::from_json(read_json(prompt_data / "gemma.json"), &config);
}
Tokenizer qwen_tokenizer(const std::string& jinja) {
  const Json config{{"eos_token", "<|endoftext|>"}, {"chat_template", jinja}};
  return Tokenizer::from_json(read_json(prompt_data / "qwen2.json"), &config);
}
Record record_of(const char* context) {
  Record record;
  record.question = "Who?";
  record.context = context;
  record.answers = {"She"};
  return record;
}
std::string text_of(const Prompt& prompt, const std::vector<int32_t>& ids) { return prompt.tokenizer().decode(ids); }
}  // namespace

TEST_CASE("text/prompt: questions and answers as text, begun and ended") {
  const Prompt prompt(gemma_tokenizer());
  CHECK(text_of(prompt, prompt.question(record_of(""))) == "<bos>Q: Who?\nA:");
  CHECK(text_of(prompt, prompt.question(record_of("Here."))) == "<bos>Context: Here.\nQ: Who?\nA:");
  CHECK(text_of(prompt, prompt.answer("She")) == " She<eos>");
  CHECK(text_of(prompt, prompt.conversation({{"user", "a"}, {"assistant", "b"}, {"user", "c"}})) ==
        "<bos>Q: a\nA: b\nQ: c\nA:");
  CHECK_THROWS_WITH_AS(prompt.conversation({{"system", "s"}}), doctest::Contains("no place for the role 'system'"),
                       Error);
  CHECK(prompt.plain("") == std::vector<int32_t>{prompt.tokenizer().bos()});
  CHECK(prompt.plain("<eos>").size() > 2);  // what is written like a control token stays text
  CHECK(prompt.stop() == std::vector<std::string>{"\n"});
  CHECK(prompt.end_token() == prompt.tokenizer().id("<eos>"));
  CHECK(prompt.end_tokens() ==
        std::vector<int32_t>{prompt.tokenizer().id("<eos>"), prompt.tokenizer().id("<end_of_turn>")});
  CHECK(Prompt(qwen_tokenizer("")).beginning().empty());
  CHECK(Prompt(qwen_tokenizer("")).plain("") == std::vector<int32_t>{qwen_tokenizer("").id("<|endoftext|>")});
}

TEST_CASE("text/prompt: a plain text is learned whole, and a question without an answer by the words for it") {
  const Prompt prompt(gemma_tokenizer()), with_words(gemma_tokenizer(), {.unknown = "I do not know."});
  const auto whole = prompt.learn({.text = "Here."});
  CHECK(text_of(prompt, whole.tokens) == "<bos>Here.<eos>");
  CHECK(std::count(whole.learned.begin(), whole.learned.end(), true) == static_cast<int>(whole.tokens.size()));
  const Record open{.question = "Why?", .unanswered = true};
  CHECK(text_of(with_words, with_words.learn(open).tokens) == "<bos>Q: Why?\nA: I do not know.<eos>");
  CHECK(with_words.accepted(open) == std::vector<std::string>{"I do not know."});
  CHECK_THROWS_WITH_AS(prompt.learn(open), doctest::Contains("a record without answers, and no words for it"), Error);
  CHECK(PromptOptions::from_json(with_words.options().to_json(), "here") == with_words.options());
  const Prompt chat(gemma_tokenizer(), {.form = Form::chat, .unknown = "No."});
  CHECK(text_of(chat, chat.learn({.text = "Here."}).tokens) == "<bos>Here.<eos>");
  CHECK(text_of(chat, chat.learn(open).tokens).find("No.") != std::string::npos);
}

TEST_CASE("text/prompt: chat, with or without thoughts") {
  const Prompt chat_prompt(gemma_tokenizer(), {.form = Form::chat});
  CHECK(text_of(chat_prompt, chat_prompt.question(record_of("Here."))) ==
        "<bos><start_of_turn>user\nHere.\nWho?<end_of_turn>\n<start_of_turn>model\n");
  CHECK(text_of(chat_prompt, chat_prompt.answer("She")) == "She<end_of_turn>");
  CHECK(chat_prompt.stop().empty());

  const Prompt qwen(qwen_tokenizer(chat_template("thinks.jinja")), {.form = Form::chat});
  CHECK(text_of(qwen, qwen.question(record_of(""))) ==
        "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n");
  const Prompt thinks(qwen_tokenizer(chat_template("thinks.jinja")), {.form = Form::chat, .thinking = true});
  CHECK(text_of(thinks, thinks.question(record_of(""))) == "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n");
  CHECK(qwen.end_token() == qwen.tokenizer().id("<|im_end|>"));
  CHECK_THROWS_WITH_AS(Prompt(qwen_tokenizer(""), {.form = Form::chat}), doctest::Contains("base model"), Error);
  CHECK_THROWS_WITH_AS(Prompt(qwen_tokenizer("{% block x %}"), {.form = Form::chat}), doctest::Contains("{% block %}"),
                       Error);
  CHECK_THROWS_WITH_AS(Prompt(gemma_tokenizer(), {.form = Form::chat, .thinking = true}),
                       doctest::Contains("does not read enable_thinking"), Error);

  const auto dated = [](PromptOptions options) {
    options.form = Form::chat;
    const Prompt prompt(qwen_tokenizer(chat_template("headers.jinja")), options);
    return text_of(prompt, prompt.conversation({{"system", "s"}, {"user", "u"}}));
  };
  CHECK(dated({.date = "2024-03-01"}).find("Today Date: 01 Mar 2024\n\ns<|eot_id|>") != std::string::npos);
  CHECK(dated({.variables = R"({"date_string": "some day"})"}).find("Today Date: some day\n") != std::string::npos);
  CHECK_THROWS_WITH_AS(Prompt(gemma_tokenizer(), {.form = Form::chat, .date = "2024-03-01"}),
                       doctest::Contains("writes no date"), Error);
  CHECK_THROWS_WITH_AS(dated({.date = "yesterday"}), doctest::Contains("'yesterday'"), Error);
  CHECK_THROWS_WITH_AS(dated({.variables = R"({"dat": "x"})"}), doctest::Contains("the variable 'dat'"), Error);
}

TEST_CASE("text/prompt: a conversation is asked for its last answer, and learned in the chat form alone") {
  Record record;
  record.turns = {{"system", "s"}, {"user", "1?"}, {"assistant", "Yes"}, {"user", "2?"}, {"assistant", "No"}};
  const Prompt prompt(qwen_tokenizer(chat_template("thinks.jinja")), {.form = Form::chat});
  const auto learned = prompt.learn(record);
  auto asked = prompt.question(record);
  const auto from = static_cast<std::ptrdiff_t>(asked.size());
  const auto answer = prompt.answer("No");
  asked.insert(asked.end(), answer.begin(), answer.end());
  CHECK(learned.tokens == asked);
  const auto said = [&](const auto& begin) {
    return static_cast<std::size_t>(std::count(begin, learned.learned.end(), true));
  };
  CHECK(said(learned.learned.begin() + from) == answer.size());
  CHECK(said(learned.learned.begin()) == answer.size() + prompt.answer("Yes").size());
  CHECK_THROWS_WITH_AS(Prompt(gemma_tokenizer()).learn(record), doctest::Contains("--form chat"), Error);
}

TEST_CASE(
    "text/prompt: a conversation that the template refuses is left out of a data set, and listed with its reason") {
  const Prompt prompt(
      qwen_tokenizer("{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}"
                     "{% endif %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
                     "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"),
      {.form = Form::chat});
  Record good, bad{.id = "bad"};
  good.turns = {{"user", "1?"}, {"assistant", "Yes"}};
  bad.turns = {{"system", "s"}, {"user", "1?"}, {"assistant", "Yes"}};
  const Dataset data({good, bad, good}, prompt);
  CHECK(data.size() == 2);
  CHECK(data.examples()[1].record == 2);
  REQUIRE(data.refused().size() == 1);
  CHECK(data.refused()[0].record == 1);
  CHECK(data.left_out().find("1 left out that the chat template refuses: record 2 'bad' (") == 0);
  CHECK(data.left_out().find("no system") != std::string::npos);
  CHECK(Dataset({good}, prompt).left_out().empty());
  CHECK_THROWS_WITH_AS(Dataset({bad}, prompt), doctest::Contains("none of 1 records is left; 1 left out that"), Error);
}

TEST_CASE("text/prompt: a data set learns what the assistant says, of conversations and of questions alike") {
  Record talk, pair = record_of("");
  talk.id = "talk";
  talk.turns = {{"user", "1?"}, {"assistant", "Yes"}, {"user", "Who?"}, {"assistant", "She"}};
  const Prompt prompt(qwen_tokenizer(chat_template("smollm2.jinja")), {.form = Form::chat});
  const Dataset data({talk, pair}, prompt);
  CHECK(data.examples()[0].tokens == prompt.learn(talk).tokens);
  CHECK(data.examples()[0].learned == prompt.learn(talk).learned);
  auto asked = prompt.question(pair);
  const auto answer = prompt.answer("She");
  CHECK(std::count(data.examples()[1].learned.begin(), data.examples()[1].learned.end(), false) ==
        static_cast<std::ptrdiff_t>(asked.size()));
  asked.insert(asked.end(), answer.begin(), answer.end());
  CHECK(data.examples()[1].tokens == asked);
  pair.turns = {{"user", pair.question}, {"assistant", pair.answers[0]}};
  pair.question.clear();
  pair.answers.clear();
  const Dataset same({talk, pair}, prompt);  // as a conversation it is the same
  CHECK(same.examples()[1].tokens == data.examples()[1].tokens);
  CHECK(same.examples()[1].learned == data.examples()[1].learned);
  CHECK(same.content().value() == data.content().value());

  const auto batch = data.batch({0, 1}, 1000);
  const auto& micro = micro_cast<PackedTokens>(*batch.micro[0]);
  int64_t learned = 0;
  for (const auto& example : data.examples())
    learned += std::count(example.learned.begin(), example.learned.end(), true);
  CHECK(batch.targets == learned);
  std::vector<int32_t> targets;
  for (const int32_t t : micro.targets)
    if (t != ignored_target) targets.push_back(t);
  CHECK(text_of(prompt, targets) == "Yes<|im_end|>She<|im_end|>She<|im_end|>");
  const Dataset whole({talk}, prompt, {.loss_on = LossOn::everything});
  CHECK(whole.content().value() != Dataset({talk}, prompt).content().value());
  CHECK(whole.batch({0}, 1000).targets == whole.tokens() - 1);
  CHECK(Dataset({talk, pair}, prompt, {.max_tokens = static_cast<int64_t>(same.examples()[1].tokens.size())})
            .too_long() == 1);

  CHECK_THROWS_WITH_AS(Dataset({talk}, Prompt(qwen_tokenizer(""))), doctest::Contains("record 0, 'talk': "), Error);
  CHECK_THROWS_WITH_AS(Dataset({talk}, Prompt(qwen_tokenizer(""))), doctest::Contains("--form chat"), Error);
  PackedTokens packed;
  CHECK_THROWS_WITH_AS(packed.add({1, 2}, std::vector<bool>{true}), doctest::Contains("2 tokens, and 1"), Error);
}

TEST_CASE("text/prompt: a folder says which tokens end an answer, and may keep its template in a file of its own") {
  const test::Scratch dir;
  std::filesystem::copy_file(prompt_data / "qwen2.json", dir / "tokenizer.json");
  CHECK(!tokenizer_spec_from_folder(dir / "nowhere"));
  const int32_t end = qwen_tokenizer("").id("<|endoftext|>"), turn = qwen_tokenizer("").id("<|im_end|>");
  write_atomically(dir / "generation_config.json", Json{{"eos_token_id", {turn, end, 7}}}.dump());
  write_atomically(dir / "chat_template.jinja", std::string(chat_template("thinks.jinja")));
  const Prompt prompt(Tokenizer(*tokenizer_spec_from_folder(dir.path())), {.form = Form::chat});
  CHECK(prompt.end_tokens() == std::vector<int32_t>{turn, end, 7});
  CHECK(prompt.tokenizer().chat_template() == chat_template("thinks.jinja"));
  CHECK(prompt.tokenizer().eos() == turn);  // no tokenizer_config.json names one
  CHECK(prompt.tokenizer().spec().notes ==
        std::vector<std::string>{
            "tokenizer_config.json names no eos_token: '<|im_end|>' is taken, by generation_config.json"});

  // A template's own file goes before tokenizer_config.json's; of several, "default" is taken; the others are told.
  const auto spec = [&] { return *tokenizer_spec_from_folder(dir.path()); };
  const Json named = {{{"name", "default"}, {"template", "a"}}, {{"name", "tool_use"}, {"template", "b"}}};
  write_atomically(dir / "tokenizer_config.json", Json{{"chat_template", named}}.dump());
  CHECK(spec().chat_template == chat_template("thinks.jinja"));
  CHECK(spec().notes.size() == 3);
  CHECK(spec().notes[0] == "chat templates that are not used: 'tool_use'");
  CHECK(spec().notes[1].find("chat_template.jinja is there, and is another") != std::string::npos);
  std::filesystem::rename(dir / "chat_template.jinja", dir / "kept");
  CHECK(spec().chat_template == "a");
  write_atomically(dir / "chat_template.json", Json{{"chat_template", "c"}}.dump());
  CHECK(spec().chat_template == "c");
  std::filesystem::remove(dir / "chat_template.json");
  write_atomically(dir / "tokenizer_config.json", Json{{"chat_template", {named[1]}}}.dump());
  CHECK(spec().chat_template.empty());
  CHECK(spec().notes[0].find("none is called 'default'") != std::string::npos);
  std::filesystem::create_directory(dir / "additional_chat_templates");
  std::filesystem::rename(dir / "kept", dir / "additional_chat_templates/rag.jinja");
  CHECK(spec().notes[1].find("'rag'") != std::string::npos);

  write_atomically(dir / "generation_config.json", Json{{"eos_token_id", 1000000}}.dump());
  CHECK_THROWS_WITH_AS(Tokenizer(*tokenizer_spec_from_folder(dir.path())), doctest::Contains("ends answers is 1000000"),
                       Error);
}

TEST_CASE("text/prompt: what an adapter keeps of it") {
  for (const PromptOptions& options : {PromptOptions{}, PromptOptions{.form = Form::chat, .thinking = true},
                                       PromptOptions{.stop = std::vector<std::string>{"END", "\n\n"}},
                                       PromptOptions{.variables = R"({"a":[1,"b"]})", .date = "2024-03-01"}})
    CHECK(PromptOptions::from_json(options.to_json(), "x") == options);
  CHECK(Prompt(gemma_tokenizer(), {.stop = std::vector<std::string>{}}).stop().empty());
  CHECK_THROWS_WITH_AS(PromptOptions::from_json({{"form", "poem"}}, "x.json"), doctest::Contains("form 'poem'"), Error);
  CHECK_THROWS_WITH_AS(PromptOptions::from_json({{"form", "chat"}, {"mood", 1}}, "x.json"), doctest::Contains("'mood'"),
                       Error);
}
