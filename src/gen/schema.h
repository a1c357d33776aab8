/* JSON schemas as patterns (grammar.h): what the pattern matches is valid under the schema.
 *
 * Enforced: type (also a list), nullable, enum, const, properties, required, additionalProperties,
 *   patternProperties, propertyNames, minProperties, maxProperties, items, prefixItems, minItems,
 *   maxItems, minLength, maxLength, pattern, format (date, time, date-time, uuid, email, hostname,
 *   ipv4, ipv6, uri), minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf of integers,
 *   anyOf, oneOf, allOf (merged), $ref to a place in the same schema (also recursive), true, false.
 * Ignored, for they say nothing about a value: $schema, $id, $comment, $defs, definitions, title,
 *   description, default, examples, readOnly, writeOnly, deprecated, discriminator.
 * Everything else (not, if, contains, uniqueItems, …), and a keyword in a form that cannot be
 *   enforced (a pattern with lookahead, oneOf whose branches overlap, lengths beside a pattern that
 *   is more than one repeated class), is named in `loose`, or refused.
 *
 * What is written: properties in the schema's order; those that are not required may be left out.
 * An object that lists properties has no others unless additionalProperties or patternProperties
 * allow them. Keys that come in freely can be repeated by the model; each counts for minProperties
 * and maxProperties. White space is one space, or none, behind each colon and comma. Integers have
 * up to 18 digits, those with multipleOf up to 9; numbers have no exponent where bounds are given,
 * and up to six digits more behind the point than these. Strings and keys hold any character.
 *
 * Threads: pure.
 * Errors:  SP_INVAL for what is no schema, or larger than the budgets of bytes and steps; SP_UNSUP
 *          names a keyword or $ref. A schema that no value meets is found when the pattern is
 *          compiled.
 * Source:  JSON Schema draft 2020-12; `nullable` and `discriminator` are OpenAPI 3.0's. */
#ifndef SP_GEN_SCHEMA_H
#define SP_GEN_SCHEMA_H

#include "gen/grammar.h"

#include <jansson.h>

/* Appends the pattern of a schema. loose: NULL, and what cannot be enforced is refused by name;
 * else the names of what is not enforced are appended, in quotes and apart by commas, each once. */
SP_MUST sp_err sp_grammar_schema(sp_buf *out, sp_buf *loose, const json_t *schema, sp_diag *d);
/* Appends the pattern of any JSON object. */
SP_MUST sp_err sp_grammar_object(sp_buf *out, sp_diag *d);

#endif
