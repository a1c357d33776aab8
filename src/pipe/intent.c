#include "pipe/intent.h"

#include <math.h>
#include <string.h>

enum { HEAD = 2048, TAIL = 1024, STEM = 4, MAX_CUED = 200 };
static const char MAGIC[] = "sparing intent 1\n";

const char *sp_class_name(sp_class c)
{
    static const char *const name[SP_CLASSES] = {"fact", "chat",  "extraction", "summary",
                                                 "code", "maths", "planning"};
    return name[c];
}

/* --- features --------------------------------------------------------------------------------- */

static uint32_t hash(uint32_t h, const char *p, size_t n) /* FNV-1a */
{
    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char)p[i]) * 16777619u;
    return h;
}

static void add(sp_intent_features *f, uint8_t seen[SP_INTENT_HASH / 8], uint32_t h)
{
    h = (h ^ h >> 15) * 2246822519u;
    h = (h ^ h >> 13) % SP_INTENT_HASH;
    if (f->n == SP_INTENT_FEATURES || seen[h / 8] >> h % 8 & 1)
        return;
    seen[h / 8] = (uint8_t)(seen[h / 8] | 1 << h % 8);
    f->hashed[f->n++] = h;
}

static bool is_word(unsigned char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           c >= 0x80 || c == '\'';
}

/* Beginnings of words by what they hint at: the seven classes, hard work, a short answer. */
static const char *const cues[SP_INTENT_CUES] = {
    "abbreviat author biggest born called capital country date defin found invent largest located meaning member who president population river symbol symptom "
    "version what when where which",
    "bye congratulat dear dialogue essay feel friend good hello hey hi invent joke letter love morning name night nickname poem pretend really sorry speech story talk "
    "thank thanks tired welcome wish you",
    "address classify convert copy correct csv deduplicate entit extract field find identif json label mention name normali parse phrase pick positive negative price "
    "punctuation return rewrite sentiment spell translate tone true false yaml",
    "abstract bullet condens digest gist headline main minutes overview point recap short shorten summar synopsis synthes takeaway title tldr",
    "algorithm api array bash bug class code command compile curl database debug deadlock exception function git html implement interface java javascript library loop "
    "method parser print program python query recursion refactor regex rust script server shell sort sql stack string syntax thread unit variable vim",
    "add algebra angle area average calculat celsius coin converge cube cylinder derive determine dice differential digit divid equation even expected half induction "
    "integer integral km limit mathemat matrix maximi minimi minus multipl number odd percent perimeter plus prime probabilit proof prove root sequence series solve square "
    "sum theorem times triangle variance volume",
    "agenda budget campaign checklist cook curriculum diet draw emergency gift itinerar launch meal milestone organi pack phase plan prepar recipe remind roadmap route "
    "schedule shopping shift strateg suggest timetable todo tonight trip vacation weekend when workout",
    "advise analy argue argument assess assum build careful case caus challenge compar complex consequen consider constraint contradict convinc critical debate deduce "
    "depend derive describe design detail determine develop discuss draft essay evaluat evidence examin explain five ten generalise implement imagin implication "
    "investigat interpret justif merge method optimi plan prove rationale reason recommend reconcil refactor review rigorous risk several step story strategy structur thorough "
    "trade trace understand walk weigh why work write",
    "brief fast just line name no one only or quick quickly short simple single tell word yes",
};

/* Bits of the cues that a word of so many bytes, in small letters, begins with. A cue of up to
 * three letters is the whole word. */
static unsigned find_cues(const char *word, size_t len)
{
    unsigned found = 0;
    for (size_t k = 0; k < SP_INTENT_CUES; k++) {
        for (const char *p = cues[k]; *p && !(found >> k & 1);) {
            size_t n = strcspn(p, " ");
            if (p[0] == word[0] && n <= len && (n > 3 || n == len) && memcmp(p, word, n) == 0)
                found |= 1u << k;
            p += n + (p[n] == ' ');
        }
    }
    return found;
}

/* Words in lower case, every number as "0"; a sign that is no word is one by itself. */
static void read_words(sp_intent_features *f, uint8_t *seen, const char *p, size_t n,
                       bool from_start)
{
    uint32_t before = hash(2166136261u, from_start ? "^" : "...", from_start ? 1 : 3);
    char word[32];
    size_t n_cued = 0;
    for (size_t i = 0; i < n;) {
        size_t len = 0;
        if ((unsigned char)p[i] <= ' ') {
            i++;
            continue;
        }
        if (!is_word((unsigned char)p[i]))
            word[len++] = p[i++];
        while (len == 0 ||
               (i < n && is_word((unsigned char)p[i]) && is_word((unsigned char)word[0]))) {
            char c = p[i++];
            c = c >= 'A' && c <= 'Z' ? (char)(c + 32) : c >= '0' && c <= '9' ? '0' : c;
            if (len < sizeof word && !(c == '0' && len && word[len - 1] == '0'))
                word[len++] = c;
        }
        uint32_t h = hash(2166136261u, word, len);
        unsigned bits = n_cued++ < MAX_CUED ? find_cues(word, len) : 0;
        for (size_t k = 0; k < SP_INTENT_CUES; k++)
            f->dense[SP_INTENT_MEASURES + k] += (float)(bits >> k & 1);
        add(f, seen, h);
        add(f, seen, hash(before * 31u, word, len));
        if (len > STEM)
            add(f, seen, hash(77u, word, STEM));
        before = h;
    }
}

static float squash(double v, double at)
{
    return (float)(v / (v + at));
}

static void measure(float out[SP_INTENT_MEASURES], const char *p, size_t n, size_t n_all)
{
    size_t words = 0, marks = 0, digits = 0, signs = 0, lines = 0, commas = 0, stops = 0,
           quotes = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)p[i];
        words += is_word(c) && (i == 0 || !is_word((unsigned char)p[i - 1]));
        marks += c == '?';
        digits += c >= '0' && c <= '9';
        signs += strchr("{}[]();=<>_/\\|`*+", c) != NULL && c;
        lines += c == '\n';
        commas += c == ',' || c == ';' || c == ':';
        stops += c == '.' || c == '!' || c == '?';
        quotes += c == '"';
    }
    double all = n ? (double)n : 1;
    out[0] = squash((double)words, 8);
    out[1] = squash((double)words, 30);
    out[2] = squash((double)n_all, 1500);
    out[3] = marks > 0;
    out[4] = (float)((double)digits / all);
    out[5] = (float)((double)signs / all);
    out[6] = squash((double)lines, 4);
    out[7] = squash((double)commas, 3);
    out[8] = squash((double)stops, 2);
    out[9] = quotes > 0;
    out[10] = words ? squash(all / (double)words, 6) : 0; /* long words */
    out[11] = words <= 3;
}

void sp_intent_read(sp_intent_features *f, const char *text, size_t n)
{
    uint8_t seen[SP_INTENT_HASH / 8] = {0};
    size_t head = n < HEAD + TAIL ? n : HEAD;
    f->n = 0;
    memset(f->dense, 0, sizeof f->dense);
    read_words(f, seen, text, head, true);
    measure(f->dense, text, head, n);
    if (head < n)
        read_words(f, seen, text + n - TAIL, TAIL, false);
    /* how often, with less and less effect */
    for (size_t k = SP_INTENT_MEASURES; k < SP_INTENT_DENSE; k++)
        f->dense[k] = squash((double)f->dense[k], 1);
    f->weight = f->n ? 1 / sqrtf((float)f->n) : 0;
}

/* --- the model -------------------------------------------------------------------------------- */

sp_err sp_intent_open(sp_intent_model *m, const void *bytes, size_t n, sp_diag *d)
{
    const char *p = bytes, *end = p + n;
    if (n < sizeof MAGIC || memcmp(p, MAGIC, sizeof MAGIC - 1) != 0)
        return SP_FAIL(d, SP_FORMAT, "intent model: it does not begin with '%.16s'", MAGIC);
    p += sizeof MAGIC - 1;
    const char *line = memchr(p, '\n', (size_t)(end - p));
    size_t floats = sizeof m->dense + sizeof m->bias + sizeof m->scale + sizeof m->calibration,
           hashed = (size_t)SP_INTENT_HASH * SP_INTENT_OUT;
    if (!line || (size_t)(end - line - 1) != floats + hashed)
        return SP_FAIL(d, SP_FORMAT,
                       "intent model: %zu bytes, which is not a model of this version", n);
    m->origin = p;
    m->n_origin = (size_t)(line - p);
    p = line + 1;
    memcpy(m->dense, p, sizeof m->dense);
    memcpy(m->bias, p + sizeof m->dense, sizeof m->bias);
    memcpy(m->scale, p + sizeof m->dense + sizeof m->bias, sizeof m->scale);
    memcpy(m->calibration, p + floats - sizeof m->calibration, sizeof m->calibration);
    m->hashed = (const int8_t *)(p + floats);
    for (size_t i = 0; i < floats / sizeof(float); i++) {
        float v;
        memcpy(&v, p + i * sizeof v, sizeof v);
        if (!isfinite(v))
            return SP_FAIL(d, SP_FORMAT, "intent model: its number %zu is not finite", i);
    }
    return SP_OK;
}

void sp_intent_score(const sp_intent_model *m, double out[SP_INTENT_OUT],
                     const sp_intent_features *f)
{
    int32_t sum[SP_INTENT_OUT] = {0};
    for (size_t i = 0; i < f->n; i++)
        for (size_t k = 0; k < SP_INTENT_OUT; k++)
            sum[k] += m->hashed[(size_t)f->hashed[i] * SP_INTENT_OUT + k];
    for (size_t k = 0; k < SP_INTENT_OUT; k++) {
        out[k] = (double)m->bias[k] + (double)(m->scale[k] * f->weight) * sum[k];
        for (size_t i = 0; i < SP_INTENT_DENSE; i++)
            out[k] += (double)(m->dense[i][k] * f->dense[i]);
    }
}

double sp_intent_logistic(double x)
{
    return 1 / (1 + exp(-x));
}

void sp_intent_judge(const sp_intent_model *m, sp_intent *out, const char *text, size_t n)
{
    sp_intent_features f;
    double s[SP_INTENT_OUT], sum = 0;
    sp_intent_read(&f, text, n);
    sp_intent_score(m, s, &f);
    for (size_t k = 0; k < SP_INTENT_OUT; k++)
        s[k] = (double)m->calibration[k][0] * s[k] + (double)m->calibration[k][1];
    out->cls = SP_CLASS_FACT;
    for (size_t k = 1; k < SP_CLASSES; k++)
        out->cls = s[k] > s[out->cls] ? (sp_class)k : out->cls;
    for (size_t k = 0; k < SP_CLASSES; k++)
        sum += exp(s[k] - s[out->cls]);
    out->sure = 1 / sum;
    out->difficulty = sp_intent_logistic(s[SP_INTENT_FULL]);
    out->need = sp_intent_logistic(s[SP_INTENT_NEED]);
}
