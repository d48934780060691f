"""What a call says, in the languages it can say it in; every sentence is read by a voice, so no symbols."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Phrases:
    """One language. `{organisation}`, `{reference}`, `{number}` and `{text}` are filled in where a field names them."""

    language: str
    """BCP 47, as the voice wants it: `en-US`."""
    greeting: str
    """Says who calls and the reference, nothing else: nobody has pressed a key yet."""
    greeting_plain: str
    press_key: str
    voicemail: str
    voicemail_plain: str
    welcome: str
    welcome_matter: str
    leave_words: str
    last_message: str
    nothing_new: str
    ask: str
    offer_agent: str
    thanks: str
    connecting: str
    nobody_free: str
    no_number: str
    goodbye: str


_ENGLISH = Phrases(
    language="en-US",
    greeting="This is {organisation}, about your matter {reference}.",
    greeting_plain="This is {organisation}. We have a message for you.",
    press_key="Press any key to hear it.",
    voicemail="This is {organisation}, about your matter {reference}. Please call us back at {number}.",
    voicemail_plain="This is {organisation}. Please call us back at {number}.",
    welcome="Welcome to {organisation}.",
    welcome_matter="If you call about your open matter {reference}, press any key.",
    leave_words="Please say what it is about, and your reference if you have one. We will answer you.",
    last_message="Our message to you: {text}",
    nothing_new="There is no new message for you.",
    ask="You can answer now: speak, or type digits and press the hash key.",
    offer_agent="To speak to a person, press zero and then the hash key.",
    thanks="Thank you, we have your message. You can add something now, or hang up.",
    connecting="I am connecting you.",
    nobody_free="Nobody is free right now. Please leave your message, we will answer you.",
    no_number="We cannot see your number. Please call again with your number shown, or write to us.",
    goodbye="Goodbye.",
)
_SPANISH = Phrases(
    language="es-ES",
    greeting="Le llama {organisation}, sobre su asunto {reference}.",
    greeting_plain="Le llama {organisation}. Tenemos un mensaje para usted.",
    press_key="Pulse cualquier tecla para escucharlo.",
    voicemail="Le llama {organisation}, sobre su asunto {reference}. Por favor, llámenos al {number}.",
    voicemail_plain="Le llama {organisation}. Por favor, llámenos al {number}.",
    welcome="Bienvenido a {organisation}.",
    welcome_matter="Si llama por su asunto abierto {reference}, pulse cualquier tecla.",
    leave_words="Por favor, diga de qué se trata y su referencia, si la tiene. Le responderemos.",
    last_message="Nuestro mensaje para usted: {text}",
    nothing_new="No hay ningún mensaje nuevo para usted.",
    ask="Puede responder ahora: hable, o marque cifras y pulse la tecla almohadilla.",
    offer_agent="Para hablar con una persona, pulse cero y después almohadilla.",
    thanks="Gracias, hemos recibido su mensaje. Puede añadir algo ahora, o colgar.",
    connecting="Le paso la llamada.",
    nobody_free="Ahora no hay nadie libre. Deje su mensaje, por favor, le responderemos.",
    no_number="No vemos su número. Por favor, llame de nuevo mostrando su número, o escríbanos.",
    goodbye="Adiós.",
)
_FRENCH = Phrases(
    language="fr-FR",
    greeting="Ici {organisation}, au sujet de votre dossier {reference}.",
    greeting_plain="Ici {organisation}. Nous avons un message pour vous.",
    press_key="Appuyez sur une touche pour l'écouter.",
    voicemail="Ici {organisation}, au sujet de votre dossier {reference}. Merci de nous rappeler au {number}.",
    voicemail_plain="Ici {organisation}. Merci de nous rappeler au {number}.",
    welcome="Bienvenue chez {organisation}.",
    welcome_matter="Si vous appelez pour votre dossier ouvert {reference}, appuyez sur une touche.",
    leave_words="Dites-nous de quoi il s'agit, et votre référence si vous en avez une. Nous vous répondrons.",
    last_message="Notre message pour vous : {text}",
    nothing_new="Il n'y a pas de nouveau message pour vous.",
    ask="Vous pouvez répondre maintenant : parlez, ou tapez des chiffres puis la touche dièse.",
    offer_agent="Pour parler à une personne, tapez zéro puis la touche dièse.",
    thanks="Merci, nous avons votre message. Vous pouvez ajouter quelque chose, ou raccrocher.",
    connecting="Je vous mets en relation.",
    nobody_free="Personne n'est libre pour le moment. Laissez votre message, nous vous répondrons.",
    no_number="Votre numéro est masqué. Merci de rappeler en affichant votre numéro, ou de nous écrire.",
    goodbye="Au revoir.",
)
_GERMAN = Phrases(
    language="de-DE",
    greeting="Hier ist {organisation}, zu Ihrem Anliegen {reference}.",
    greeting_plain="Hier ist {organisation}. Wir haben eine Nachricht für Sie.",
    press_key="Drücken Sie eine beliebige Taste, um sie zu hören.",
    voicemail="Hier ist {organisation}, zu Ihrem Anliegen {reference}. Bitte rufen Sie uns zurück unter {number}.",
    voicemail_plain="Hier ist {organisation}. Bitte rufen Sie uns zurück unter {number}.",
    welcome="Willkommen bei {organisation}.",
    welcome_matter="Wenn Sie wegen Ihres offenen Anliegens {reference} anrufen, drücken Sie eine beliebige Taste.",
    leave_words="Bitte sagen Sie, worum es geht, und Ihre Referenz, falls Sie eine haben. Wir antworten Ihnen.",
    last_message="Unsere Nachricht an Sie: {text}",
    nothing_new="Es gibt keine neue Nachricht für Sie.",
    ask="Sie können jetzt antworten: Sprechen Sie, oder tippen Sie Ziffern und drücken Sie die Rautetaste.",
    offer_agent="Um mit einem Menschen zu sprechen, drücken Sie die Null und dann die Rautetaste.",
    thanks="Danke, wir haben Ihre Nachricht. Sie können jetzt etwas hinzufügen oder auflegen.",
    connecting="Ich verbinde Sie.",
    nobody_free="Gerade ist niemand frei. Bitte hinterlassen Sie Ihre Nachricht, wir antworten Ihnen.",
    no_number="Wir sehen Ihre Nummer nicht. Bitte rufen Sie mit Ihrer Nummer wieder an, oder schreiben Sie uns.",
    goodbye="Auf Wiederhören.",
)
_BY_LANGUAGE = {"en": _ENGLISH, "es": _SPANISH, "fr": _FRENCH, "de": _GERMAN}


def phrases_for(*locales: str) -> Phrases:
    """The phrases of the first locale (`de`, `de-AT`, `de_AT`) whose language we speak, else English."""
    for locale in locales:
        found = _BY_LANGUAGE.get(locale.replace("_", "-").partition("-")[0].lower())
        if found is not None:
            return found
    return _ENGLISH


def spelled(characters: str) -> str:
    """A reference or a number as it is read out: sign by sign."""
    return " ".join(characters)
