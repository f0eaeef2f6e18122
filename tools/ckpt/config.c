// SPDX-License-Identifier: MIT
/*
 * Configuration files: an option a line, its long name without dashes, an argument after blanks or '=', "quoted" where it
 * holds blanks, # for comments. Each line becomes one word "--name" or "--name=value" of an argv[].
 */
#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "cli.h"

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

/* Returns "--name[=value]" (malloc), NULL for a line without an option; *@wrong says what is wrong with it. */
static char *parse_line(const char *line, const char **wrong)
{
	const char *s = skip_blanks(line);
	size_t name = strcspn(s, " \t\r\n\v\f=#");
	char *word;

	if (!*s || *s == '#')
		return NULL;
	word = malloc(strlen(s) + sizeof("--="));
	if (!word) {
		*wrong = "out of memory";
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
			*wrong = "a quote is not closed";
	}
	s = skip_blanks(s);
	if (*s && *s != '#' && !*wrong)
		*wrong = "there is text after the argument";
	return word;
}

static int read_lines(struct cli *cli, FILE *f, const char *path, int *argc, char ***argv)
{
	char *line = NULL;
	size_t room = 0;
	int r = 0;

	for (int number = 1; !r && getline(&line, &room, f) > 0; number++) {
		const char *wrong = NULL;
		char *word = parse_line(line, &wrong);
		char **grown;

		if (wrong)
			r = fail(cli, NULL, "%s:%d: %s", path, number, wrong);
		if (r || !word) {
			free(word);
			continue;
		}
		grown = realloc(*argv, ((size_t)*argc + 2) * sizeof(**argv));
		if (!grown) {
			free(word);
			r = fail(cli, NULL, "out of memory");
			continue;
		}
		*argv = grown;
		grown[(*argc)++] = word;
		grown[*argc] = NULL;
	}
	free(line);
	return r;
}

int config_read(struct cli *cli, const char *path, int *argc, char ***argv)
{
	FILE *f = fopen(path, "re");
	int r;

	*argv = NULL;
	*argc = 0;
	if (!f && (errno == ENOENT || errno == ENOTDIR))
		return 0;
	if (!f)
		return fail(cli, NULL, "cannot read the configuration file %s: %s", path, strerror(errno));
	*argv = calloc(2, sizeof(**argv));
	if (*argv) {
		(*argv)[(*argc)++] = (char *)cli->prog;
		r = read_lines(cli, f, path, argc, argv);
	} else {
		r = fail(cli, NULL, "out of memory");
	}
	fclose(f);
	return r;
}
