#include "common/report/page.h"

/* Colours that differ for colour-blind eyes, too (after Okabe and Ito), on white and on black; the reader's
 * system says which. */
static const char look[] =
    ":root{color-scheme:light dark;--paper:#fff;--ink:#16181d;--soft:#565b66;--grid:#d9dce2;\n"
    "--l0:#0072b2;--l1:#d55e00;--l2:#008f68;--l3:#b4578f;--l4:#c08400;--l5:#3b9ed6;--l6:#3f444d}\n"
    "@media (prefers-color-scheme:dark){:root{--paper:#14161a;--ink:#f2f3f5;--soft:#b4b9c4;--grid:#3a3f48;\n"
    "--l0:#58b4f0;--l1:#ff8a3d;--l2:#2fcf9f;--l3:#ec9dcb;--l4:#f5c043;--l5:#a9dcff;--l6:#d5d8de}}\n"
    "body{margin:0 auto;padding:1.2rem 2rem;max-width:1500px;background:var(--paper);color:var(--ink);\n"
    "font:1.25rem/1.45 system-ui,'Helvetica Neue',Arial,'DejaVu Sans',sans-serif}\n"
    "h1{font-size:2.2rem;margin:.3em 0}h2{font-size:1.8rem;margin:1.6em 0 .2em}\n"
    "p{color:var(--soft);margin:.2em 0 1em;max-width:60em}\n"
    "svg{display:block;width:100%;height:auto;font-family:inherit}\n"
    "svg text{fill:var(--ink)}.label,.word{font-size:23px}.number{font-size:21px}.kind{font-size:20px}\n"
    "svg .word,svg .number,svg .kind{fill:var(--soft)}.strong{font-weight:600}\n"
    "svg .inside{font-size:20px;fill:#14161a}svg .on-pale{fill:var(--ink)}\n"
    ".grid{stroke:var(--grid);stroke-width:1.5}.axis{stroke:var(--soft);stroke-width:2.5}\n"
    ".curve{fill:none;stroke-width:6;stroke-linejoin:round}.leader{fill:none;stroke-width:2}.mark{stroke:"
    "none}\n"
    ".pale{fill-opacity:.32}.part-0{fill:#56b4e9}.part-1{fill:#e69f00}.part-2{fill:#2db88f}\n"
    ".part-3{fill:#d98cb8}.part-4{fill:#a6a6a6}.part-5{fill:#e3d53c}.part-6{fill:#e8743b}\n"
    ".part-7{fill:#8c9edb}.part-8{fill:#b5cf6b}.part-9{fill:#d6a177}.part-10{fill:#7fcdcd}\n"
    ".part-11{fill:#c9c9c9}\n"
    ".wide{overflow-x:auto}table{border-collapse:collapse;font-size:1.05rem;margin:.6em 0}\n"
    "th,td{padding:.35em .45em;text-align:right;vertical-align:bottom;border-bottom:1px solid var(--grid)}\n"
    "td{white-space:nowrap}th{font-weight:600;border-bottom:2px solid var(--soft)}.left{text-align:left}\n";

void html_escape(FILE *out, const char *text) {
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '<')
            fputs("&lt;", out);
        else if (c == '>')
            fputs("&gt;", out);
        else if (c == '&')
            fputs("&amp;", out);
        else if (c == '"')
            fputs("&quot;", out);
        else
            fputc(c < 0x20 || c == 0x7f ? ' ' : c, out);
    }
}

void page_table(FILE *out, const struct table *table) {
    fputs("<div class=\"wide\"><table>\n<tr>", out);
    for (size_t c = 0; c < table->columns; c++) {
        fprintf(out, "<th%s>", table->words[c] ? " class=\"left\"" : "");
        html_escape(out, table->titles[c]);
        fputs("</th>", out);
    }
    fputs("</tr>\n", out);
    for (size_t r = 0; r < table->rows; r++) {
        fputs("<tr>", out);
        for (size_t c = 0; c < table->columns; c++) {
            fprintf(out, "<td%s>", table->words[c] ? " class=\"left\"" : "");
            html_escape(out, table_cell(table, r, c));
            fputs("</td>", out);
        }
        fputs("</tr>\n", out);
    }
    fputs("</table></div>\n", out);
}

void page_section(FILE *out, const char *title, const char *reader) {
    fprintf(out, "<h2>%s</h2>\n<p>%s</p>\n", title, reader);
}

void page_begin(FILE *out, const char *title, const char *style) {
    fputs("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
          "<meta name=\"viewport\" content=\"width=device-width\">\n<title>",
          out);
    html_escape(out, title);
    fprintf(out, "</title>\n<style>\n%s%s</style></head><body>\n<h1>", look, style);
    html_escape(out, title);
    fputs("</h1>\n", out);
}

void page_end(FILE *out) {
    fputs("</body></html>\n", out);
}
