// SPDX-License-Identifier: MIT
#include "lib/front/config.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "lib/base/base.h"

int config_wrong(char **wrong, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(wrong, fmt, ap) < 0)
		*wrong = NULL;
	va_end(ap);
	return -1;
}

/* ------------------------------------------------------------------------------------------------- lines */

static const char *skip_blanks(const char *s)
{
	return s + strspn(s, " \t\r\n\v\f");
}

/* Copies the argument that begins at *@s, unquoted. Returns false where a quote is not closed. */
static bool take_argument(const char **s, char *to)
{
	const char *p = *s;

	if (*p != '"') {
		while (*p && !isspace((unsigned char)*p) && *p != '#')
			*to++ = *p++;
	} else {
		for (p++; *p && *p != '"'; p++) {
			if (p[0] == '\\' && p[1] == '"')
				p++;
			*to++ = *p;
		}
		if (*p++ != '"')
			return false;
	}
	*to = '\0';
	*s = p;
	return true;
}

/* Returns "--name[=value]" (malloc), NULL for a line without an option; *@what says what is wrong with it. */
static char *parse_line(const char *line, const char **what)
{
	const char *s = skip_blanks(line);
	size_t name = strcspn(s, " \t\r\n\v\f=#");
	char *word;

	if (!*s || *s == '#')
		return NULL;
	word = malloc(strlen(s) + sizeof("--="));
	if (!word) {
		*what = "out of memory";
		return NULL;
	}
	memcpy(word, "--", 2);
	memcpy(word + 2, s, name);
	word[2 + name] = '\0';
	s += name;
	s = *s == '=' ? s + 1 : skip_blanks(s);
	if (*s && *s != '#' && !isspace((unsigned char)*s)) {
		word[2 + name] = '=';
		if (!take_argument(&s, word + 3 + name))
			*what = "a quote is not closed";
	}
	s = skip_blanks(s);
	if (*s && *s != '#' && !*what)
		*what = "there is text after the argument";
	return word;
}

/* Takes @word. */
static int add_word(struct config *config, char *word)
{
	char **grown = realloc(config->words, ((size_t)config->n + 2) * sizeof(*grown));

	if (!grown) {
		free(word);
		return -1;
	}
	config->words = grown;
	grown[config->n++] = word;
	grown[config->n] = NULL;
	return 0;
}

static int read_lines(struct config *config, FILE *f, const char *path, char **wrong)
{
	_cleanup_free_ char *line = NULL;
	size_t room = 0;

	for (int number = 1; getline(&line, &room, f) > 0; number++) {
		const char *what = NULL;
		char *word = parse_line(line, &what);

		if (what) {
			free(word);
			return config_wrong(wrong, "%s:%d: %s", path, number, what);
		}
		if (word && add_word(config, word) != 0)
			return -1;
	}
	return ferror(f) ? config_wrong(wrong, "cannot read the configuration file %s: %s", path, strerror(errno)) : 0;
}

int config_read(struct config *config, const char *path, char **wrong)
{
	_cleanup_fclose_ FILE *f = fopen(path, "re");

	*wrong = NULL;
	if (!f && (errno == ENOENT || errno == ENOTDIR))
		return 0;
	if (!f)
		return config_wrong(wrong, "cannot read the configuration file %s: %s", path, strerror(errno));
	return read_lines(config, f, path, wrong);
}

void config_clear(struct config *config)
{
	for (int i = 0; i < config->n; i++)
		free(config->words[i]);
	free(config->words);
	*config = (struct config){ 0 };
}

/* ----------------------------------------------------------------------------------------------- options */

static bool is_in(const char *const *list, const char *name, size_t len)
{
	for (; list && *list; list++)
		if (strncmp(*list, name, len) == 0 && !(*list)[len])
			return true;
	return false;
}

/* By its name, or, as on a command line, by the beginning of one only; several rows may have the same. */
static const struct ckpt_option *find(const char *name, size_t len, bool *ambiguous)
{
	const struct ckpt_option *table, *found = NULL;
	size_t n;

	table = ckpt_option_table(&n);
	*ambiguous = false;
	for (size_t i = 0; i < n; i++) {
		if (strncmp(table[i].name, name, len) != 0)
			continue;
		if (!table[i].name[len]) {
			*ambiguous = false;
			return &table[i];
		}
		*ambiguous = !!found;
		found = &table[i];
	}
	return found;
}

static int apply_word(const char *word, unsigned for_flag, const char *const *skip, struct ckpt_opts *opts, char **wrong)
{
	const char *name = word + 2, *value = strchr(name, '=');
	size_t len = value ? (size_t)(value - name) : strlen(name);
	const struct ckpt_option *opt;
	struct ckpt_err *err = NULL;
	bool ambiguous, negated = false;
	int r;

	if (is_in(skip, name, len))
		return 0;
	opt = find(name, len, &ambiguous);
	if (!opt && len > 3 && strncmp(name, "no-", 3) == 0) {
		opt = find(name + 3, len - 3, &ambiguous);
		negated = true;
	}
	if (!opt || ambiguous || (negated && (!(opt->flags & CKPT_OPTF_NEGATABLE) || value)))
		return config_wrong(wrong, "option '%s' is %s", word, ambiguous ? "ambiguous" : "not known");
	if (!(opt->flags & for_flag))
		return 0;
	if (opt->type == CKPT_OPT_BOOL && !(opt->flags & CKPT_OPTF_OPTIONAL_ARG) && value)
		return config_wrong(wrong, "option '--%s' does not take an argument", opt->name);
	r = ckpt_opts_set(opts, opt, negated ? "0" : value ? value + 1 : NULL, &err);
	if (r)
		config_wrong(wrong, "%s", ckpt_err_message(err));
	ckpt_err_free(err);
	return r ? -1 : 0;
}

int config_apply(const struct config *config, unsigned for_flag, const char *const *skip, struct ckpt_opts *opts, char **wrong)
{
	int r = 0;

	*wrong = NULL;
	for (int i = 0; i < config->n && !r; i++)
		r = apply_word(config->words[i], for_flag, skip, opts, wrong);
	return r;
}
