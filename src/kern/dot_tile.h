/* Dot products of int8 rows, in plain C: compilers turn it into the multiply-adds each ISA has.
 * Included by the file of each level, after its flags. Exact: sums of n <= 2^16 products fit 32
 * bits. */
static void dot_i8(int32_t *out, const int8_t *q, const int8_t *rows, size_t n_row, size_t n)
{
    for (size_t r = 0; r < n_row; r++, rows += n) {
        int32_t sum = 0;
        for (size_t i = 0; i < n; i++)
            sum += q[i] * rows[i];
        out[r] = sum;
    }
}
