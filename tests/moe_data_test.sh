#!/bin/bash
# moe-data as a user runs it: results, refusals with their exit codes, nothing left behind. $1: folder of the executables,
# $2: source tree.
set -u
data=$1/moe-data
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
failed=0

fail() { echo "FAILED: $1"; failed=1; }
# expect CODE TEXT COMMAND...: exit code, and a text in what it prints
expect() {
  local code=$1 text=$2 out rc
  shift 2
  out=$("$@" 2>&1 < /dev/null)
  rc=$?
  [ $rc -eq "$code" ] || fail "$*: expected exit code $code, found $rc: $out"
  [[ $out == *"$text"* ]] || fail "$*: expected '$text', found: $out"
}

printf 'hello world\n' > a.txt
printf 'second\n' > b.txt
printf '{"text":"one"}\n{"text":\n{"text":"three"}\n' > c.jsonl
: > empty.txt

expect 0 "t.h5" "$data" encode a.txt b.txt -o t.h5
expect 0 "hello" grep -a hello a.txt
expect 0 "19" "$data" show t.h5
expect 0 '"documents": 2' "$data" show t.h5 --json -
expect 0 "nats per token" "$data" show a.txt
expect 73 "--force" "$data" encode a.txt -o t.h5
expect 0 "t.h5" "$data" encode a.txt -o t.h5 --force
expect 0 "s-eval.h5" "$data" encode a.txt b.txt -o s.h5 --split 0.9
expect 0 '"tokens": 17' "$data" show s.h5 --json -
expect 0 '"tokens": 2' "$data" show s-eval.h5 --json -
printf 'from stdin' | "$data" encode - -o in.h5 > /dev/null || fail "stdin"
expect 0 '"tokens": 10' "$data" show in.h5 --json -

expect 65 "c.jsonl:2:" "$data" encode c.jsonl -o c.h5
expect 0 "1 malformed lines left out" "$data" encode c.jsonl -o c.h5 --skip-bad 1
expect 0 '"documents": 2' "$data" show c.h5 --json -
expect 65 "c.jsonl:1:" "$data" encode c.jsonl -o d.h5 --text-field body
expect 65 "expected at least one token" "$data" encode empty.txt -o e.h5
expect 66 "nothere" "$data" encode nothere -o e.h5
expect 73 "no/where" "$data" encode a.txt -o no/where/e.h5
expect 0 "would write  e.h5" "$data" encode a.txt -o e.h5 --dry-run
expect 2 "did you mean encode" "$data" encod a.txt -o e.h5
expect 2 "expected a command" "$data"
expect 2 "expected an output file" "$data" encode a.txt
expect 2 "--split" "$data" encode a.txt -o e.h5 --split 1.5
expect 2 "did you mean megatron" "$data" import megatro a.txt -o e.h5 --vocab-size 5
expect 2 "--vocab-size" "$data" import nanogpt a.txt -o e.h5
expect 0 "6" "$data" import nanogpt a.txt --dtype u16 --vocab-size 65536 -o n.h5
expect 65 "expected an id below 300" "$data" import nanogpt a.txt --vocab-size 300 -o e.h5
expect 65 "multiple of 2" "$data" import nanogpt b.txt --vocab-size 65536 -o e.h5
expect 65 "1024" "$data" import llmc a.txt --vocab-size 50257 -o e.h5
expect 74 "No space left" env MOE_FAULT=op=write,n=2,err=ENOSPC "$data" encode a.txt -o e.h5
head -c 300 t.h5 > cut.h5
expect 65 "cut.h5" "$data" show cut.h5
# tokenizer.json, where the build has PCRE2
bpe=$2/tests/golden/bpe/tokenizer.json
"$data" tokenizer-check "$bpe" a.txt > check.txt 2>&1
rc=$?
if [ $rc -eq 69 ]; then
  expect 69 "libpcre2-dev" "$data" encode a.txt --tokenizer "$bpe" -o e.h5
else
  [ $rc -eq 0 ] || fail "tokenizer-check: expected exit code 0, found $rc: $(cat check.txt)"
  expect 0 "all texts come back" cat check.txt
  for _ in $(seq 3000); do printf 'Some  words\r\n\r\n  of 1234 caf\xc3\xa9 <|end|>\n\n\n'; done > long.txt
  printf '[{"text":"a","ids":[1]}]' > wrong.json
  expect 3 "token 0, byte 0: expected 1 '" "$data" tokenizer-check "$bpe" --expect wrong.json
  printf '[]' > none.json
  expect 3 "expected the end, found" "$data" tokenizer-check "$bpe" a.txt --expect none.json
  printf '[["x"]]' > bad.json
  expect 65 'expected ids, found "x"' "$data" tokenizer-check "$bpe" a.txt --expect bad.json
  printf '[[1],[2]]' > more.json
  expect 65 "of 1 texts, found those of 2" "$data" tokenizer-check "$bpe" a.txt --expect more.json
  expect 0 "long" "$data" encode long.txt --tokenizer "$bpe" -o long.h5 --threads 3
  expect 0 '"tokenizer": "bpe:tokenizer.json"' "$data" show long.h5 --json -
  tokens=$("$data" tokenizer-check "$bpe" long.txt --json - | grep -o '"tokens": [0-9]*')
  expect 0 "$tokens," "$data" show long.h5 --json - # in one piece and in many: as many
  printf '{"text":"one"}\n{"text":"two words"}\n' > two.jsonl
  expect 0 "two" "$data" encode two.jsonl --tokenizer "bpe:$bpe" -o two.h5
  expect 0 '"documents": 2' "$data" show two.h5 --json -
  expect 65 "expected JSON" "$data" encode a.txt --tokenizer bpe:a.txt -o e.h5
  sed 's/"NFC"\|"ByteLevel"/"Metaspace"/' "$bpe" > other.json
  expect 65 "'Metaspace'" "$data" encode a.txt --tokenizer other.json -o e.h5
fi
expect 2 "tokenizer-check: expected a tokenizer and texts" "$data" tokenizer-check "$bpe"
[ -e e.h5 ] && fail "a refused run left its output"
[ -z "$(find . -name '.tmp-*')" ] || fail "a run left temporary files: $(find . -name '.tmp-*')"
exit $failed
