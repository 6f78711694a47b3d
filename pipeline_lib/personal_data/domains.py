"""Top-level domains that mail is sent to: what tells `a@b.com` from the code `x@w.shape`.

Country codes are those of ISO 3166 in the root zone; of the generic ones, those in wide use (IANA root zone
database). `corp`, `lan` and `local` are common inside companies.
"""

_COUNTRIES = (
    "ac ad ae af ag ai al am ao aq ar as at au aw ax az ba bb bd be bf bg bh bi bj bm bn bo br bs "
    "bt bw by bz ca cc cd cf cg ch ci ck cl cm cn co "
    "cr cu cv cw cx cy cz de dj dk dm do dz ec ee eg er es et eu fi fj fk fm fo fr ga gb gd ge gf "
    "gg gh gi gl gm gn gp gq gr gs gt gu gw gy hk hm "
    "hn hr ht hu id ie il im in io iq ir is it je jm jo jp ke kg kh ki km kn kp kr kw ky kz la lb "
    "lc li lk lr ls lt lu lv ly ma mc md me mg mh mk "
    "ml mm mn mo mp mq mr ms mt mu mv mw mx my mz na nc ne nf ng ni nl no np nr nu nz om pa pe pf "
    "pg ph pk pl pm pn pr ps pt pw py qa re ro rs ru "
    "rw sa sb sc sd se sg sh si sj sk sl sm sn so sr ss st su sv sx sy sz tc td tf tg th tj tk tl "
    "tm tn to tr tt tv tw tz ua ug uk us uy uz va vc "
    "ve vg vi vn vu wf ws ye yt za zm zw"
)
_GENERIC = (
    "com org net edu gov mil int info biz name pro mobi asia tel travel jobs coop aero museum cat "
    "post xxx app dev page blog shop store online "
    "site website web tech space cloud host live life world today news media agency company "
    "business group team email mail chat social network "
    "digital design studio art music video photo photos game games fun club health care clinic "
    "doctor dental hospital pharmacy law legal finance "
    "bank money fund capital insurance consulting solutions services systems software technology "
    "science academy school university college "
    "education training institute foundation international global center community support help "
    "house homes land estate restaurant cafe bar "
    "pizza food kitchen fit yoga sport football golf bike car cars auto taxi tours vacations hotel "
    "london berlin paris nyc tokyo amsterdam "
    "wien koeln hamburg bayern swiss scot wales eus gal bzh africa one top xyz link click icu vip "
    "wiki ink red blue green black pink gold lol "
    "guru expert ninja rocks works zone tips tools plus love family kids baby pet dog church faith "
    "wedding fashion style beauty clothing shoes "
    "jewelry market sale deals gifts express delivery supply industries engineering construction "
    "build energy solar earth eco bio farm garden "
    "kiwi ventures partners photography guide reviews holdings limited management marketing "
    "enterprises properties rentals immo immobilien versicherung reise reisen haus jetzt paris "
    "quebec vlaanderen brussels cymru irish sydney melbourne boston miami vegas moscow istanbul "
    "ltda srl sarl casa church coach coffee lawyer limo maison menu miami moda navy plumbing "
    "productions saarland soccer surf tattoo tennis tienda tires viajes villas vodka voyage wtf "
    "local lan corp internal intra home ltd llc inc gmbh"
)

TOP_LEVEL = frozenset(f"{_COUNTRIES} {_GENERIC}".split()) | {
    "рф",
    "中国",
    "中國",
    "台灣",
    "香港",
    "한국",
    "भारत",
    "укр",
    "срб",
}
"""Lower-case top-level domains that count as real."""
