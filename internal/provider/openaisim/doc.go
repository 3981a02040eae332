// Package openaisim is a stand-in for OpenAI's chat completions API: an
// [http.Handler] that speaks the same wire, answers deterministically, and does on
// request what the real service does on a bad day. chatsvc embeds it when it has
// no key; tests, demos and benchmarks use it through the same client code path as
// production. It imports only the standard library.
//
// # The wire
//
// It serves POST /v1/chat/completions (one JSON body, or server-sent events with
// "stream": true), GET /v1/models and GET /v1/models/{id}; the /v1 prefix may be
// left out. Requests are validated as strictly as OpenAI validates them, and
// refused with OpenAI's error types and codes. Names that begin with gpt-, chatgpt-,
// ft:, sim, or o and a digit are served, every other model is model_not_found. Models
// called sim… belong to this package: sim (128,000 tokens of context), sim-small
// (1,000) and sim-reasoning, a reasoning model.
//
// What it leaves out on purpose: n > 1, log probabilities, audio output, and the
// deprecated functions. The "obfuscation" of stream chunks is not random. A named
// tool_choice ends with the finish reason tool_calls; finish=stop shows the other one.
//
// # Answers
//
// The same request gets the same answer, ids and times aside. By default it says
// what the last user message said, and the one before that. It also understands, in
// English and whatever else the message says:
//
//	My name is Ada.                       Nice to meet you, Ada.
//	What is my name?                      Your name is Ada.
//	What did I say first?                 You first said: «…».
//	What did I say before?                Before that you said: «…».
//	What did I say 3 turns ago?           3 turns ago you said: «…».
//	How many turns is this?               This is turn 4.
//	What are your instructions?           My instructions are 5 words long.
//
// After tool results it reports them. When tools are offered it calls those that the
// last user message names (or, if tool_choice insists, the first or the named
// one), with arguments made up from their schema. With response_format it answers
// JSON: {"answer": …, "turn": …}, or a value made up from the schema.
//
// # Tokens
//
// A token is one of: a run of up to 20 letters, with an apostrophe inside; up to 3
// digits; up to 16 other signs; each with the one space before it; or a run of up to
// 64 white spaces. A mark, modifier or joiner is never parted from what it belongs to.
// That is the splitting rule of OpenAI's tokenizers without the merging after it, so
// counts are near theirs and rarely above. A message costs 4 tokens more than its
// text, a request 3, an image 85 (detail low) or 765; tools cost the tokens of their
// JSON. A tool call in an answer costs 1 and the tokens of its arguments.
// Each streamed delta is exactly one token. Everything before the last
// user message counts as cached, in steps of 128 from 1,024 on.
//
// # Directives
//
// A directive in the last message that is a user's or a tool's scripts that one call:
//
//	Bonjour [[sim tokens=200 ttft=50ms rate=100/s finish=length]]
//
// and so does a suffix of the model name: gpt-4o-mini@fault=stall,after=3. The
// message's setting wins over the model's. Settings are name=value, separated by
// spaces or commas. A value with either in it is quoted: '…' or "…" (where \n, \t,
// \\ and an escaped quote mean what they usually do, and any other backslash itself) or
// `…` (nothing is escaped). A directive that cannot be read is refused with 400 and the
// code sim_directive. Directives are no part of what the simulator remembers.
//
//	answer=TEXT        the answer
//	tokens=N           an answer of N tokens
//	refusal=TEXT       a refusal instead of an answer
//	tool=NAME          a tool call, repeatable; also of a tool that was not offered
//	args=JSON          the arguments of the tool before it; sent as they are
//	finish=REASON      stop, length, content_filter or tool_calls
//	reasoning=N        reasoning tokens
//	delay=DURATION     wait before the status line
//	ttft=DURATION      wait before the first token
//	rate=N or N/s      tokens per second; 0 is as fast as possible
//	burst=N            N deltas per flush
//	split=N            flush every N bytes: 1 parts every frame and every rune
//	comments=N         N ": keep-alive" lines before each delta
//	fault=NAME         see below
//	after=N            the fault strikes after N deltas; 0 is right after the headers
//	times=N key=K      only the first N calls with the key K see the fault
//	retry-after=DURATION   of 429-rate, where it is 1s unless told, and of 503
//	size=MIB           of huge; 8 unless told
//
// The faults, of which those marked * take after (which is 0 unless told, and
// at most the length of the answer):
//
//	400 401 404 429-rate 429-quota 500 503   that error; 429 is 429-rate
//	context      400, context_length_exceeded
//	stall*       nothing more comes until the client goes away
//	cut*         the connection is cut; without after, before the status line
//	eof*         the body ends cleanly, with neither finish reason nor [DONE]
//	error*       an error event, and the end of the body
//	garbage*     a data line that is not JSON; then the rest as usual
//	huge*        a data line of size MiB; then the rest as usual
//	no-done      everything but [DONE]
//	no-finish    everything but the finish reason
//	no-usage     everything but the usage
//	html         200 with a page of HTML
//	endless      deltas that never end, whatever max_tokens says
//
// A call that does not stream meets the same faults as far as one body can show them.
package openaisim
