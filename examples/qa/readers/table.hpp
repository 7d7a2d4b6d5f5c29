// examples/qa/readers/table.hpp: CSV, TSV and what else has rows and columns.
#pragma once
#include "object.hpp"

#include <algorithm>    // std::find, std::min, std::all_of
#include <cstdint>      // std::int64_t
#include <string>       // std::string
#include <string_view>  // std::string_view
#include <utility>      // std::exchange, std::move, std::pair
#include <vector>       // std::vector

namespace qa {

/// Why a table's cells of names cannot be used, or what is missing; an empty string where all is found.
inline std::string header_fault(const std::vector<std::string>& header, const Columns& said) {
  Json object = Json::object();
  for (const auto& name : header) object[name] = "x";
  Members members(object);
  const bool chat = said.question.empty() && !members.get(turns_names).first.empty();
  for (const auto& [option, column] :
       {std::pair("--question-column", said.question), std::pair("--answer-column", said.answer),
        std::pair("--context-column", said.context), std::pair("--id-column", said.id),
        std::pair("--split-column", said.split)})
    if (!column.empty() && members.get({}, column).first.empty())
      return str(option, ' ', column, ": the columns are ", listed(header));
  const auto question = members.get(question_names, said.question).first,
             answer = members.get(answer_names, said.answer).first;
  if (chat || (!question.empty() && !answer.empty() && question != answer)) return {};
  const auto chosen = members.get(chosen_names).first, rejected = members.get(rejected_names).first;
  if (said.answer.empty() && !chosen.empty() && !rejected.empty()) return {};  // the sides may hold their question
  if (said.answer.empty() && !rejected.empty() && !question.empty() && !answer.empty()) return {};
  if (!chosen.empty() || (question.empty() && answer.empty()))
    for (const auto name : {"chosen", "text"})
      if (!members.named(name).is_null()) return not_a_record(members).message();
  return str("of the ", header.size(), header.size() == 1 ? " column" : " columns", " none is named ",
             question.empty() ? (answer.empty() ? "question or answer" : "question") : "answer", ": ", listed(header));
}

/// A table's first row, and what separates its columns.
struct TableStart {
  char delimiter;
  std::vector<std::string> header;
  std::string fault;  ///< why the header cannot be used
};

inline std::string name_of_delimiter(char c) { return c == '\t' ? "a tab" : str('\'', c, '\''); }

/// The names of a table's columns. Numbers in Columns count them, and are replaced by the names.
inline std::vector<std::string> names_of(std::vector<std::string> cells, bool no_header) {
  for (std::size_t i = 0; i < cells.size(); ++i) {
    cells[i] = trimmed(cells[i]);
    if (no_header || cells[i].empty()) cells[i] = str(i + 1);
  }
  return cells;
}

inline Columns by_name(Columns said, const std::vector<std::string>& header, bool no_header) {
  if (no_header && header.size() == 2 && said.question.empty() && said.answer.empty())
    said.question = "1", said.answer = "2";
  for (auto* column : {&said.question, &said.answer, &said.context, &said.id, &said.split}) {
    if (column->empty() || std::find(header.begin(), header.end(), *column) != header.end()) continue;
    if (column->size() < 4 && column->find_first_not_of("0123456789") == column->npos) {
      const auto number = std::stoul(*column);
      if (number >= 1 && number <= header.size()) *column = header[number - 1];
    }
  }
  return said;
}

/// Looks for the delimiter with which the first row names what is needed, and where no row names anything, for the one
/// that all of the first rows have alike; one that a blank always follows is prose.
inline TableStart start_of_table(std::string_view text, const ReadOptions& options, char usual) {
  const auto start = [&](char delimiter) {
    TableStart found{delimiter, {}, {}};
    Rows rows(text, delimiter);
    while (rows.next())
      if (!rows.why.empty() || rows.cells.size() > 1 || !trimmed(rows.cells[0]).empty()) break;
    if (!rows.why.empty()) found.fault = "the first row cannot be read: " + rows.why;
    found.header = names_of(rows.cells, options.no_header);
    if (found.fault.empty())
      found.fault = header_fault(found.header, by_name(options.columns, found.header, options.no_header));
    return found;
  };
  if (options.delimiter) return start(options.delimiter);
  std::vector<TableStart> fit;
  TableStart best = start(usual);
  if (best.fault.empty()) fit.push_back(best);
  for (const char delimiter : {',', ';', '\t', '|'}) {
    if (delimiter == usual) continue;
    auto found = start(delimiter);
    if (found.fault.empty()) fit.push_back(std::move(found));
    else if (found.header.size() > best.header.size() && best.header.size() < 2) best = std::move(found);
  }
  if (!options.no_header) return fit.empty() ? best : fit.front();
  std::vector<TableStart> alike;
  for (auto& candidate : fit) {
    Rows rows(text, candidate.delimiter);
    bool same = true, prose = true;
    for (int i = 0; i < 100 && rows.next(); ++i) {
      if (rows.cells.size() == 1 && trimmed(rows.cells[0]).empty()) continue;
      same &= rows.why.empty() && rows.cells.size() == candidate.header.size();
      for (std::size_t k = 1; k < rows.cells.size(); ++k) prose &= rows.cells[k].starts_with(' ');
    }
    if (same && !prose) alike.push_back(std::move(candidate));
  }
  if (alike.size() == 1) return alike.front();
  if (!alike.empty()) {
    best.fault = "its columns may be separated by ";
    for (std::size_t i = 0; i < alike.size(); ++i)
      best.fault += str(i ? " or " : "", name_of_delimiter(alike[i].delimiter));
  } else if (!fit.empty()) {
    return fit.front();  // its rows that differ are bad ones, by line
  }
  return best;
}

/// Whether a row is the line below a Markdown table's names: | --- | :-: |
inline bool is_rule(const std::vector<std::string>& cells) {
  return std::all_of(cells.begin(), cells.end(),
                     [](const std::string& cell) { return cell.find_first_not_of(" -:\r") == cell.npos; });
}

/// With a row of names, or with --no-header: then of two columns the question and its answer.
inline void read_table(Collector& out, std::string_view text, char usual) {
  ReadOptions options = out.options();
  std::int64_t line = 0;
  if (const auto first = text.substr(0, text.find('\n')); lowered(std::string(first.substr(0, 4))) == "sep=" &&
                                                          trimmed(first).size() <= 5 && first.size() > 4) {  // Excel's
    if (!options.delimiter) options.delimiter = first[4] == '\r' ? '\t' : first[4];
    text.remove_prefix(std::min(text.size(), first.size() + 1));
    line = 1;
  }
  if (trimmed(text).empty()) return;
  const auto start = start_of_table(text, options, usual);
  for (const auto& name : start.header)
    if (const auto fault = ft::text::text_fault(name); !fault.empty())
      return out.refuse(line + 1, "in the first row: " + fault, "");
  if (!start.fault.empty())
    return out.refuse(line + 1, start.fault,
                      options.no_header || start.fault.starts_with("its columns")
                          ? "say which they are, by number from 1: --question-column 2 --answer-column 3; and what "
                            "separates them: --delimiter ';'."
                          : "say which they are: --question-column NAME --answer-column NAME; what separates them: "
                            "--delimiter ';'; of a table without a row of names: --no-header.");
  const auto said = by_name(options.columns, start.header, options.no_header);
  for (std::size_t i = 0; i < start.header.size(); ++i)
    if (std::find(start.header.begin(), start.header.begin() + static_cast<std::ptrdiff_t>(i), start.header[i]) !=
        start.header.begin() + static_cast<std::ptrdiff_t>(i))
      return out.refuse(line + 1, str("two columns are named ", listed({start.header[i]})), "give one another name.");
  out.note(
      str("columns separated by ", name_of_delimiter(start.delimiter), options.no_header ? ", without names" : ""));
  out.use(said);
  Rows rows(text, start.delimiter);
  bool names = options.no_header;  // the row of names is behind us
  while (rows.next()) {
    const auto& cells = rows.cells;
    if (!rows.why.empty()) {
      out.bad(line + rows.line, rows.why);
      continue;
    }
    if (cells.size() == 1 && trimmed(cells[0]).empty()) continue;
    if (!std::exchange(names, true)) continue;
    if (start.delimiter == '|' && is_rule(cells)) continue;
    if (cells.size() != start.header.size()) {
      out.bad(line + rows.line, str("the row has ", cells.size(), " columns, the first has ", start.header.size()));
      continue;
    }
    Json object = Json::object();
    for (std::size_t i = 0; i < cells.size(); ++i) object[start.header[i]] = cells[i];
    object[line_member] = line + rows.line;
    add_object(out, line + rows.line, object);
  }
}

}  // namespace qa
