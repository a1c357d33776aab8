/* Rules that prune: which comments restate their line, where comments begin, what of Markdown is
 * protected. */
#include "test.h"

#include "gen/comments.h"
#include "gen/prose.h"

#include <string.h>

void test_comments(void **state);
void test_comment_places(void **state);
void test_prose(void **state);

void test_comments(void **state)
{
    static const struct {
        const char *comment, *code;
        bool restates;
    } row[] = {{" increment the counter", "counter += 1", true},
               {" Increment i", "i++;", true},
               {" Return the result", "return result", true},
               {" print the sum", "print(a + b)", true},
               {" Loop through each item in the list", "for item in items:", true},
               {" Define the function calculate_area", "def calculate_area(width, height):", true},
               {" import the math module", "import math", true},
               {" check if the number is even", "if is_even(number):", true},
               {" set x to 5", "x = 5", true},
               {" call parseHeader", "parse_header(buf);", true},
               {" the clock wraps every 49 days", "counter += 1", false},
               {" because the device counts from one", "i = i + 1", false},
               {" TODO increment the counter by the step", "counter += 1", false},
               {" type: ignore", "x = ignore(type)", false},
               {" noqa", "import noqa", false},
               {"!/bin/sh", "sh()", false},
               {" http://example.org/area", "area(example)", false},
               {" seconds", "seconds = 5", false},
               {" never negative", "negative = abs(negative)", false},
               {"", "x = 5", false},
               {" the", "x = 5", false},
               {" guards against an empty response from the proxy", "if not response:", false}};
    (void)state;
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++)
        if (sp_comment_restates(row[i].comment, strlen(row[i].comment), row[i].code,
                                strlen(row[i].code)) != row[i].restates)
            fail_msg("'%s' and '%s'", row[i].comment, row[i].code);
}

void test_comment_places(void **state)
{
    static const struct {
        const char *lang, *line;
        int at; /* -1: none */
        char before, after;
    } row[] = {{"python", "x = 1 # one", 6, 0, 0},
               {"python", "x = '# one'", -1, 0, 0},
               {"python", "x = 'it\\'s # one' # two", 18, 0, 0},
               {"python", "x = \"\"\"# one", -1, 0, '"'},
               {"python", "# one \\\"\"\" two", -1, '"', '"'},
               {"python", "# one\"\"\" # two", 9, '"', 0},
               {"python", "x#1", -1, 0, 0},
               {"python", "x = 'open", -1, 0, SP_COMMENT_LOST},
               {"python", "y = 2 # two", -1, SP_COMMENT_LOST, SP_COMMENT_LOST},
               {"py", "    # one", 4, 0, 0},
               {"c", "x = 1; // one", 7, 0, 0},
               {"c", "s = \"// one\";", -1, 0, 0},
               {"c", "c = '\"'; s = \"// one\"; // two", 23, 0, 0},
               {"c", "#define A 1", -1, 0, 0},
               {"c", "x = 1; /* it's */ // one", -1, 0, 0},
               {"cpp", "s = R\"(", -1, 0, SP_COMMENT_LOST},
               {"js", "s = `a // b`", -1, 0, SP_COMMENT_LOST},
               {"js", "x.replace(/\"/g, \"a // b\")", -1, 0, 0},
               {"js", "x = 1 // one", 6, 0, 0},
               {"sql", "SELECT 1 -- one", 9, 0, 0},
               {"brainfuck", "+ # one", -1, 0, 0},
               {"", "x = 1 # one", -1, 0, 0}};
    (void)state;
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        char in_string = row[i].before;
        size_t at = 0, body = 0;
        bool found =
            sp_comment_find(row[i].lang, row[i].line, strlen(row[i].line), &in_string, &at, &body);
        if (found != (row[i].at >= 0) || (found && (int)at != row[i].at) ||
            in_string != row[i].after)
            fail_msg("%s: '%s': %d at %zu, string %d", row[i].lang, row[i].line, found, at,
                     in_string);
    }
}

/* Each byte of the text, against a mask of the same length: x is protected. */
static void walk(const char *text, const char *mask)
{
    sp_prose p = {0};
    assert_int_equal(strlen(text), strlen(mask));
    for (size_t i = 0; text[i]; i++) {
        sp_prose_step(&p, text[i]);
        if (sp_prose_is_protected(&p) != (mask[i] == 'x'))
            fail_msg("byte %zu, '%c', of '%s'", i, text[i], text);
    }
}

void test_prose(void **state)
{
    (void)state;
    walk("a `b` c", "..xx...");
    walk("a \"b\" c", "..xx...");
    walk("a \"b\nc", "..xx..");
    walk("> a\nb", "xxx..");
    walk("| a |\nb", "xxxxx..");
    walk(" {\"a\": 1}\n", ".xxxxxxxxx");
    walk("a\n```py\n\"b\n```\nc", "..xxxxxxxxxxxx..");
    sp_prose p = {0};
    for (const char *s = "```Python x\n# a"; *s; s++)
        sp_prose_step(&p, *s);
    assert_true(p.in_fence);
    assert_string_equal(p.lang, "python");
}
