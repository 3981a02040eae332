package openaisim

import (
	"encoding/json"
	"slices"
)

// schema is the part of JSON Schema that making up a value needs.
type schema struct {
	Type       json.RawMessage    `json:"type"` // a name, or several of them
	Enum       []json.RawMessage  `json:"enum"`
	Const      json.RawMessage    `json:"const"`
	Properties map[string]*schema `json:"properties"`
	Required   []string           `json:"required"`
	Items      *schema            `json:"items"`
	AnyOf      []*schema          `json:"anyOf"`
}

// maxSchemaDepth bounds how deep a made-up value nests.
const maxSchemaDepth = 16

// exampleOf returns a JSON value that fits a plain schema: every required property, one
// item in each array, the first of several choices. References, formats and bounds are
// not looked at. A schema that cannot be read gives an empty object.
func exampleOf(raw json.RawMessage) string {
	var s schema
	if absent(raw) || json.Unmarshal(raw, &s) != nil {
		return "{}"
	}
	return string(s.appendExample(nil, 0))
}

func (s *schema) appendExample(b []byte, depth int) []byte {
	switch {
	case s == nil || depth > maxSchemaDepth:
		return append(b, "null"...)
	case len(s.Const) > 0:
		return append(b, s.Const...)
	case len(s.Enum) > 0:
		return append(b, s.Enum[0]...)
	case len(s.AnyOf) > 0:
		return s.AnyOf[0].appendExample(b, depth+1)
	}
	switch s.typeName() {
	case "string":
		return append(b, `"text"`...)
	case "integer":
		return append(b, '1')
	case "number":
		return append(b, "1.5"...)
	case "boolean":
		return append(b, "true"...)
	case "null":
		return append(b, "null"...)
	case "array":
		b = append(b, '[')
		if s.Items != nil {
			b = s.Items.appendExample(b, depth+1)
		}
		return append(b, ']')
	}
	b = append(b, '{')
	for i, name := range s.Required {
		if slices.Contains(s.Required[:i], name) {
			continue
		}
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '"')
		b = appendJSON(b, name)
		b = append(b, `":`...)
		property := s.Properties[name]
		if property == nil {
			property = &schema{Type: json.RawMessage(`"string"`)}
		}
		b = property.appendExample(b, depth+1)
	}
	return append(b, '}')
}

// typeName returns the type, or the first of several.
func (s *schema) typeName() string {
	var name string
	if json.Unmarshal(s.Type, &name) == nil {
		return name
	}
	var names []string
	if json.Unmarshal(s.Type, &names) == nil && len(names) > 0 {
		return names[0]
	}
	return "object"
}
