package tokens

import (
	"strconv"
	"strings"
)

// What the chat format adds around the text, in tokens. The first two are OpenAI's own figures (OpenAI Cookbook, "How to count
// tokens with tiktoken"), exact for GPT-3.5 Turbo, GPT-4 and GPT-4o. The others are not published; they are chosen to
// lie above what is billed.
const (
	// PerMessage is added once per message: three tokens of framing, and the role.
	PerMessage = 4
	// ReplyPrimer is added once per request: the framing that the answer begins with.
	ReplyPrimer = 3
	// PerToolCall is added, besides the function's name and its arguments, to each call in an assistant message.
	PerToolCall = 12
	// PerToolResult is added, besides [PerMessage] and the result's text, to each message that answers a tool call: the
	// model is shown which function answers.
	PerToolResult = 12
	// PerTool is added, besides the name, description and JSON schema, to each tool that is offered. The model sees the
	// schema in a terser notation than JSON, which is the margin of this figure.
	PerTool = 10
	// ToolsSection is added once to a request that offers any tool.
	ToolsSection = 12
)

// Image sizes, in tokens, of the largest image that each way of charging allows. An image is scaled down to at most 8
// tiles of 512 pixels, or to a number of patches of 32 pixels that the model's family sets.
const (
	tiledLow, tiledHigh         = 85, 85 + 8*170      // GPT-4o, GPT-4.1, o-series, GPT-5; some of them a little less
	tiledMiniLow, tiledMiniHigh = 2833, 2833 + 8*5667 // GPT-4o mini, priced by inflating its tokens
	patched                     = 1536 * 246 / 100    // minis and nanos since GPT-4.1: 1,536 patches, at most 2.46 tokens each
	patchedLarge                = 10_000              // since GPT-5.4: up to 10,000 patches in the original resolution
)

// Image returns the tokens to reckon with for one image, whose size is not known because images are passed on unread. It is
// the most that the model's family charges at this detail: "low", or anything else, since "high", "auto" and unset
// may all mean the full resolution.
func Image(model, detail string) int {
	model = strings.TrimPrefix(model, "ft:")
	family, _, _ := strings.Cut(model, ":")
	low := detail == "low"
	switch {
	case strings.HasPrefix(family, "gpt-4o-mini"):
		if low {
			return tiledMiniLow
		}
		return tiledMiniHigh
	case strings.HasPrefix(family, "gpt-6"), minor(family) >= 4:
		return patchedLarge
	case strings.Contains(family, "-mini"), strings.Contains(family, "-nano"):
		return patched
	case low:
		return tiledLow
	default:
		return tiledHigh
	}
}

// minor returns the number behind "gpt-5." in a name, or -1.
func minor(family string) int {
	rest, ok := strings.CutPrefix(family, "gpt-5.")
	if !ok {
		return -1
	}
	digits, _, _ := strings.Cut(rest, "-")
	n, err := strconv.Atoi(digits)
	if err != nil {
		return -1
	}
	return n
}
