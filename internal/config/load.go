package config

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/v2"
)

// Source is where a configuration comes from. What stands further down wins.
type Source struct {
	// File is the path of a YAML file; empty for none.
	File string
	// Environ is the environment, as os.Environ returns it. An empty variable counts as not set.
	Environ []string
	// OtherEnv names CHATSVC_* variables that are no settings but are read by something else, so that they are not taken
	// for misspelt ones.
	OtherEnv []string
	// Flags are the flags that were given, by the name of their setting: {"dev": "true"}. Secrets are not among them.
	Flags map[string]string
}

// Load reads and checks a configuration. Its error joins one line per thing that is wrong, each of which says where it was
// set, and none of which repeats a secret.
//
// With dev, addresses must be loopback, the team `dev` has the key DevKey, and where nothing else is set reflection is open,
// the log is text, and the upstream is the simulator; a base URL for the upstream, or its mode, says otherwise.
func Load(src Source) (*Config, error) {
	return read(src, (*loader).validate)
}

// LoadDatabase is Load for what only works on the database: whatever is set must be readable, but who answers and who may
// call need not be.
func LoadDatabase(src Source) (*Config, error) {
	return read(src, func(l *loader) {
		l.database()
		l.retention()
	})
}

func read(src Source, validate func(*loader)) (*Config, error) {
	l := &loader{ko: koanf.New("."), origin: make(map[string]string), config: Default()}
	if err := l.file(src.File); err != nil {
		return nil, err
	}
	l.environment(src.Environ, src.OtherEnv)
	l.flags(src.Flags)
	l.decode()
	if l.config.Dev {
		l.config.devDefaults(l.set)
		l.config.Auth.APIKeys = append(l.config.Auth.APIKeys, devKey(l.config.DevKey))
	}
	validate(l)
	if len(l.errs) > 0 {
		return nil, errors.Join(l.errs...)
	}
	return &l.config, nil
}

// loader collects layers, then errors.
type loader struct {
	ko     *koanf.Koanf
	origin map[string]string // what set a setting: a file, variable or flag
	config Config
	errs   []error
}

// fail adds a line about a setting.
func (l *loader) fail(name, format string, args ...any) {
	if origin := l.origin[name]; origin != "" {
		name += " (" + origin + ")"
	}
	l.errs = append(l.errs, fmt.Errorf("%s: "+format, append([]any{name}, args...)...))
}

// set reports whether somebody set the setting.
func (l *loader) set(name string) bool { return l.origin[name] != "" }

// yamlBytes is a koanf.Provider of what was read already.
type yamlBytes []byte

func (b yamlBytes) ReadBytes() ([]byte, error) { return b, nil }

func (yamlBytes) Read() (map[string]any, error) { return nil, errors.ErrUnsupported }

func (l *loader) file(path string) error {
	if path == "" {
		return nil
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading the configuration: %w", err)
	}
	base := filepath.Base(path)
	if err := l.ko.Load(yamlBytes(content), yaml.Parser()); err != nil {
		return fmt.Errorf("reading the configuration: %s: %s", base, yamlComplaint(err))
	}
	known := make(map[string]bool)
	for _, s := range Settings() {
		known[s.Name] = true
		for i := range s.Name {
			if s.Name[i] == '.' {
				known[s.Name[:i]] = false // A section.
			}
		}
	}
	parts := l.ko.KeyMap()
	for _, name := range l.ko.Keys() {
		l.origin[name] = base
		value := l.ko.Get(name)
		_, isMap := value.(map[string]any) // An empty one: others have keys of their own.
		dotted := slices.ContainsFunc(parts[name], func(part string) bool { return strings.Contains(part, ".") })
		switch isSetting, ok := known[name]; {
		case !ok || dotted:
			l.fail(name, "no such setting")
		case isSetting && (value == nil || isMap):
			l.fail(name, "has no value")
		case !isSetting && value != nil && !isMap:
			l.fail(name, "is a section of settings, not a setting")
		}
	}
	return nil
}

// quoted is how the YAML parser quotes values.
var quoted = regexp.MustCompile("`[^`]*`")

// yamlComplaint returns the parser's error in one line and without the values that it quotes: a file that is not a
// configuration may well be a key.
func yamlComplaint(err error) string {
	text := quoted.ReplaceAllString(err.Error(), "a value")
	return strings.Join(strings.Fields(strings.ReplaceAll(text, "yaml: ", "")), " ")
}

// injected matches the variables that Kubernetes gives to every pod beside a Service that is named chatsvc.
var injected = regexp.MustCompile(`^CHATSVC_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

func (l *loader) environment(environ, other []string) {
	vars := make(map[string]string)
	for _, entry := range environ {
		if key, value, ok := strings.Cut(entry, "="); ok && value != "" {
			vars[key] = value
		}
	}
	known := make(map[string]bool)
	for _, f := range fields() {
		known[f.Env] = true
		if value, ok := vars[f.Env]; ok {
			l.put(f.Name, value, f.Env)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(vars)) {
		if strings.HasPrefix(key, "CHATSVC_") && !known[key] && !slices.Contains(other, key) && !injected.MatchString(key) {
			l.errs = append(l.errs, fmt.Errorf("%s: no such variable", key))
		}
	}
}

func (l *loader) flags(flags map[string]string) {
	names := make(map[string]string)
	for _, f := range fields() {
		names[f.Name] = f.Flag
	}
	for _, name := range slices.Sorted(maps.Keys(flags)) {
		if names[name] == "" {
			l.errs = append(l.errs, fmt.Errorf("%s: cannot be set by a flag", name))
			continue
		}
		l.put(name, flags[name], "--"+names[name])
	}
}

// put sets a setting in the topmost layer.
func (l *loader) put(name, value, origin string) {
	l.origin[name] = origin
	if err := l.ko.Set(name, value); err != nil {
		l.fail(name, "%w", err)
	}
}

// decode fills the configuration from the merged layers.
func (l *loader) decode() {
	for _, f := range fields() {
		value := l.ko.Get(f.Name)
		if _, isMap := value.(map[string]any); value == nil || isMap { // What is wrong with a map is said already.
			continue
		}
		text, err := scalar(value, f.at(&l.config))
		if err == nil {
			err = f.parse(&l.config, text)
		}
		if err != nil {
			l.fail(f.Name, "%w", err)
		}
	}
	who := &l.config.Auth
	who.APIKeys = entries(l, apiKeys, keyFields())
	who.Certificates = entries(l, certificates, certificateFields())
	who.JWT = entries(l, jwt, jwtFields())
}

// scalar returns a value of the file as text.
func scalar(value, target any) (string, error) {
	text, isText := value.(string)
	if isText {
		return text, nil
	}
	switch target.(type) {
	case *string, *Secret:
		// Numbers are not taken as text: 1.10 would become 1.1, and 0123 a number in octal.
		return "", errors.New("must be text; put it in quotes")
	}
	switch v := value.(type) {
	case bool:
		return strconv.FormatBool(v), nil
	case int:
		return strconv.Itoa(v), nil
	default:
		return "", errors.New("must be a single value")
	}
}
