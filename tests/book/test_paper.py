"""The printed book's own pages."""

from flatlib.book.paper import for_paper, page_numbers

TEXT = """<html><head></head><body><article class="bd-article">
<span id="document-book/method/primer"></span><section id="a"><h2>Pictures<a class="headerlink"></a></h2></section>
<span id="document-book/api/index"></span><section id="b"><h2>Names<a class="headerlink"></a></h2></section>
<noscript><style>.explorer {}</style><figure><img src="../_static/explorer/runs.svg"></figure></noscript>
</article></body></html>"""
PDF = b"""%PDF-1.4
1 0 obj
<</Type /Page>>
endobj
2 0 obj
<</Type /Page>>
endobj
3 0 obj
<</Type /Pages
/Count 2
/Kids [1 0 R 2 0 R]>>
endobj
4 0 obj
<<
/document-book#2Fmethod#2Fprimer [2 0 R /XYZ 19.5 522.4 0]
/a [1 0 R /XYZ 0 0 0]>>
endobj
5 0 obj
<</Type /Catalog
/Pages 3 0 R
/Dests 4 0 R>>
endobj
"""


def test_contents_have_page_numbers_and_no_api():
    numbers = page_numbers(PDF)
    assert numbers == {"document-book/method/primer": 2}
    paper = for_paper(TEXT, numbers)
    assert '<li><a href="#document-book/method/primer">Pictures</a><span>2</span></li>' in paper
    assert "Names</a><span>" not in paper
    assert 'id^="document-book/api/"' in paper, "hidden"


def test_the_api_is_printed_on_request():
    paper = for_paper(TEXT, {}, api=True)
    assert "Names</a><span></span>" in paper
    assert 'id^="document-book/api/"' not in paper


def test_the_explorer_is_a_picture():
    paper = for_paper(TEXT, {})
    assert "noscript" not in paper
    assert '<img src="_static/explorer/runs.svg">' in paper


def test_a_file_without_pages_has_no_numbers():
    assert page_numbers(b"%PDF-1.4") == {}
