/* The settings that a round of improvement may change, as numbers, with their ranges and steps.
 * Threads: no state. */
#ifndef SP_PIPE_KNOB_H
#define SP_PIPE_KNOB_H

#include "pipe/ask.h"

typedef enum sp_knob {
    SP_KNOB_FULL_FROM,
    SP_KNOB_NEED_FROM,
    SP_KNOB_ESCALATE,
    SP_KNOB_PASSAGES,
    SP_KNOB_DRAFT,
    SP_KNOB_LIGHT_TOKENS,
    SP_KNOB_CONTROL, /* 0: off, 1: safe */
    SP_KNOB_KEEP,
    SP_KNOB_INTENT,  /* numbers of a trained intent model, ... */
    SP_KNOB_POLICY,  /* ... of a policy, ... */
    SP_KNOB_HEAD,    /* ... and of a draft head; 0: that of the options */
    SP_KNOB_EPSILON,
    SP_KNOB_EPSILON_OF, /* and one for each class behind it */
    SP_KNOBS = SP_KNOB_EPSILON_OF + SP_CLASSES
} sp_knob;

typedef struct sp_knobs {
    double v[SP_KNOBS];
    bool set[SP_KNOBS]; /* by a version; the others are the server's options */
} sp_knobs;

/* Settings that say what knobs say. */
typedef struct sp_knob_settings {
    sp_settings set;
    sp_class_numbers by;
    double number[SP_KNOBS];
    unsigned count[SP_KNOBS];
} sp_knob_settings;

/* full_from, …, epsilon_of.CLASS: as in a file of settings; static */
const char *sp_knob_name(sp_knob k);
/* The nearest value that the knob may have. */
double sp_knob_near(sp_knob k, double v);
/* Only those that are set; out points into itself. */
void sp_knobs_settings(sp_knob_settings *out, const sp_knobs *k);
/* Sets those that the settings have. */
void sp_knobs_take(sp_knobs *k, const sp_settings *s);
/* {name: value, …} of those that are set, as YAML. */
void sp_knobs_write(const sp_knobs *k, sp_buf *out);

#endif
