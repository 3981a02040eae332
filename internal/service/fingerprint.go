package service

import (
	"bufio"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

// fingerprintVersion begins what is hashed. Fingerprints are stored and compared with those that later releases make, so
// it changes with the form, and then every repeat that crosses the release is taken for other content.
const fingerprintVersion = "chatsvc.v1.CreateTurnRequest/1\n"

// fingerprint returns the SHA-256 of a request's content as it was sent, by which a repeat of a request_id is told from
// another request: all that is set but the id itself and how the caller waits. A field that is set to its default differs
// from one that is not, where the wire tells them apart. The bytes that protobuf marshals would not do: it promises no
// order of fields and maps, not even from one build to the next.
func fingerprint(in *chatsvcv1.CreateTurnRequest) [32]byte {
	hash := sha256.New()
	w := fingerprinter{bufio.NewWriterSize(hash, 1<<10)} // a hash never refuses a write, so the Writer never does
	_, _ = w.WriteString(fingerprintVersion)
	w.message(in.ProtoReflect(), "request_id", "wait", "on_disconnect")
	_ = w.Flush()
	return [32]byte(hash.Sum(nil))
}

// fingerprinter writes values so that no two of one type look alike, whatever follows: numbers have one length or say it,
// all else begins with its length, and a message ends with the field number 0 and what is unknown in it.
type fingerprinter struct{ *bufio.Writer }

// message writes the fields that are set by rising number, but those that are named.
func (w fingerprinter) message(m protoreflect.Message, without ...protoreflect.Name) {
	type field struct {
		fd protoreflect.FieldDescriptor
		v  protoreflect.Value
	}
	var fields []field
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if !slices.Contains(without, fd.Name()) {
			fields = append(fields, field{fd, v})
		}
		return true
	})
	slices.SortFunc(fields, func(a, b field) int { return cmp.Compare(a.fd.Number(), b.fd.Number()) })
	for _, f := range fields {
		w.number(uint64(f.fd.Number())) //nolint:gosec // Positive.
		w.field(f.fd, f.v)
	}
	w.number(0)
	w.unknown(m.GetUnknown())
}

func (w fingerprinter) field(fd protoreflect.FieldDescriptor, v protoreflect.Value) {
	switch {
	case fd.IsMap():
		w.entries(fd, v.Map())
	case fd.IsList():
		w.number(uint64(v.List().Len())) //nolint:gosec // Not negative, as all lengths here.
		for i := range v.List().Len() {
			w.value(fd.Kind(), v.List().Get(i))
		}
	default:
		w.value(fd.Kind(), v)
	}
}

// entries writes a map's entries by rising key. The maps of a request have strings as keys; a test says so.
func (w fingerprinter) entries(fd protoreflect.FieldDescriptor, m protoreflect.Map) {
	keys := make([]protoreflect.MapKey, 0, m.Len())
	m.Range(func(k protoreflect.MapKey, _ protoreflect.Value) bool {
		keys = append(keys, k)
		return true
	})
	slices.SortFunc(keys, func(a, b protoreflect.MapKey) int { return cmp.Compare(a.String(), b.String()) })
	w.number(uint64(len(keys)))
	for _, k := range keys {
		w.text(k.String())
		w.value(fd.MapValue().Kind(), m.Get(k))
	}
}

func (w fingerprinter) value(kind protoreflect.Kind, v protoreflect.Value) {
	switch kind {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		w.message(v.Message())
	case protoreflect.StringKind:
		w.text(v.String())
	case protoreflect.BytesKind:
		w.bytes(v.Bytes())
	case protoreflect.BoolKind:
		w.number(protowire.EncodeBool(v.Bool()))
	case protoreflect.EnumKind:
		w.number(uint64(v.Enum())) //nolint:gosec // One number for each, also for negative ones.
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		w.number(math.Float64bits(v.Float()))
	case protoreflect.Uint32Kind, protoreflect.Uint64Kind, protoreflect.Fixed32Kind, protoreflect.Fixed64Kind:
		w.number(v.Uint())
	default: // the signed integers
		w.number(uint64(v.Int())) //nolint:gosec // As for enums.
	}
}

// unknown writes the fields that this build does not know, by rising number; those with one number stay in their order.
func (w fingerprinter) unknown(raw protoreflect.RawFields) {
	type field struct {
		number protowire.Number
		raw    []byte
	}
	var fields []field
	for len(raw) > 0 {
		number, _, n := protowire.ConsumeField(raw)
		if n < 0 { // Unmarshal keeps nothing that is no field.
			number, n = 0, len(raw)
		}
		fields = append(fields, field{number, raw[:n]})
		raw = raw[n:]
	}
	slices.SortStableFunc(fields, func(a, b field) int { return cmp.Compare(a.number, b.number) })
	w.number(uint64(len(fields)))
	for _, f := range fields {
		w.bytes(f.raw)
	}
}

func (w fingerprinter) text(s string) {
	w.number(uint64(len(s)))
	_, _ = w.WriteString(s)
}

func (w fingerprinter) bytes(b []byte) {
	w.number(uint64(len(b)))
	_, _ = w.Write(b)
}

func (w fingerprinter) number(n uint64) {
	_, _ = w.Write(binary.AppendUvarint(w.AvailableBuffer(), n))
}
